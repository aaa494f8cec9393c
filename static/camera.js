// The camera: opening it, choosing another one, and a sentence for everything that can go wrong.

const SENTENCES = {
  NotAllowedError: "The camera is blocked for this page. Allow it in the browser's address bar, then try again.",
  NotFoundError: "No camera was found. Connect one, or choose a picture or a video instead.",
  NotReadableError: "The camera is in use by another program. Close that program, then try again.",
  OverconstrainedError: "This camera cannot do what was asked of it. Try another camera.",
  SecurityError: "The browser's security settings keep this page from the camera.",
  AbortError: "The camera stopped while it was starting. Try again.",
  InsecureContext: "Browsers allow the camera on secure pages only: open this page through https, or on localhost.",
  Unsupported: "This browser has no camera access. Choose a picture or a video, or use a current browser.",
};

/** A sentence for `error`, as thrown by `openCamera`. */
export function explainCamera(error) {
  return SENTENCES[error?.name] ?? `The camera could not be started (${error?.name ?? "unknown reason"}).`;
}

/**
 * Open a camera: the one of `deviceId`, or else one that faces the user. Resolves to a MediaStream.
 * Rejects with an error whose `name` explainCamera knows.
 */
export async function openCamera(deviceId) {
  if (!window.isSecureContext) throw named("InsecureContext");
  if (!navigator.mediaDevices?.getUserMedia) throw named("Unsupported");
  const size = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
  const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "user" };
  return navigator.mediaDevices.getUserMedia({ audio: false, video: { ...size, ...which } });
}

/** The id of the camera after the one of `stream`, or null when there is no other. */
export async function nextCamera(stream) {
  const devices = await navigator.mediaDevices.enumerateDevices();
  const ids = devices.filter((device) => device.kind === "videoinput").map((device) => device.deviceId);
  if (ids.length < 2) return null;
  const current = stream.getVideoTracks()[0]?.getSettings().deviceId;
  return ids[(ids.indexOf(current) + 1) % ids.length];
}

/** Whether `stream` shows the user, who expects a mirror. */
export function facesUser(stream) {
  return stream.getVideoTracks()[0]?.getSettings().facingMode !== "environment";
}

/** Turn the camera off: its light goes out. */
export function stopCamera(stream) {
  for (const track of stream.getTracks()) track.stop();
}

function named(name) {
  const error = new Error(name);
  error.name = name;
  return error;
}
