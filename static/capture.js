// From a video's frames to small JPEG files.

const LONG_SIDE_PX = 640; // people in it are as large as the networks look at them; more would only travel slower
const QUALITY = 0.8;
const LONGEST_WAIT_MS = 250; // some browsers announce no frames of a video that they think is out of sight

/** Resolves at the video's next frame. */
export function nextFrame(video) {
  const frame = new Promise((resolve) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
    else requestAnimationFrame(resolve);
  });
  const enough = new Promise((resolve) => setTimeout(resolve, LONGEST_WAIT_MS));
  return Promise.race([frame, enough]);
}

/** Whether a canvas gives back what was drawn on it: against fingerprinting some browsers give pages noise instead. */
function canvasIsTrue() {
  const context = Object.assign(document.createElement("canvas"), { width: 16, height: 16 }).getContext("2d");
  context.fillStyle = "#408020";
  context.fillRect(0, 0, 16, 16);
  const pixels = context.getImageData(0, 0, 16, 16).data;
  const off = pixels.reduce((sum, value, index) => sum + Math.abs(value - [64, 128, 32, 255][index % 4]), 0);
  return off / pixels.length < 16; // a little noise does no harm
}

/** Encodes `source` (video, picture) of `size` {width, height} as a JPEG Blob, no longer than `longSidePx`. */
export class Capture {
  #canvas = document.createElement("canvas");
  #isTrue;

  /** Whether what is encoded is what was drawn. Asked late: some browsers ask their user about it. */
  get isTrue() {
    this.#isTrue ??= canvasIsTrue();
    return this.#isTrue;
  }

  encode(source, size, longSidePx = LONG_SIDE_PX) {
    const scale = Math.min(1, longSidePx / Math.max(size.width, size.height));
    this.#canvas.width = Math.max(1, Math.round(size.width * scale));
    this.#canvas.height = Math.max(1, Math.round(size.height * scale));
    const context = this.#canvas.getContext("2d", { alpha: false });
    context.drawImage(source, 0, 0, this.#canvas.width, this.#canvas.height);
    return new Promise((resolve) => this.#canvas.toBlob(resolve, "image/jpeg", QUALITY));
  }
}
