// The page: what is shown, and the two loops. `draw` runs with the display; `infer` runs as fast as the server answers.

import { PoseStream, Refused } from "./api.js";
import { explainCamera, facesUser, nextCamera, openCamera, stopCamera } from "./camera.js";
import { Capture, nextFrame } from "./capture.js";
import { drawDancer } from "./dancer.js";
import { drawPeople, drawSource, makeView } from "./draw.js";
import { onFiles } from "./drop.js";
import { key, noteKey } from "./key.js";
import { Meter } from "./meter.js";
import { peopleIn } from "./picture.js";
import { hush, say, toast } from "./words.js";

const STALE_MS = 700; // an answer older than this fades out
const TOAST_MS = 4000; // long enough to read a sentence
const HIDDEN = "This browser hides pictures from pages: let this one read canvases, and load it again.";

const $ = (id) => document.getElementById(id);
const video = $("video");
const canvas = $("canvas");
const context = canvas.getContext("2d");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const capture = new Capture();

let chosen = null; // what the user chose last, {again: how to choose it once more}; what opens later for another goes
let show = { kind: "idle" }; // or "picture" {image, size}, "live" {size, mirrored, camera, url, stream, meter, ...}
let people = { list: [], size: { width: 1, height: 1 }, at: 0 };
let drawn = []; // of what the canvas shows, while it need not be drawn again

// --- what is shown --------------------------------------------------------------------------------------------------

/** End what runs, free what it held, and show `next` instead. */
function change(next) {
  show.stream?.close();
  if (show.camera) stopCamera(show.camera);
  if (show.url) URL.revokeObjectURL(show.url);
  show.image?.close();
  if (next.kind !== "live") {
    video.srcObject = null;
    video.removeAttribute("src");
  }
  people = { list: [], size: { width: 1, height: 1 }, at: 0 };
  const left = [$("welcome"), $("bar")].some((part) => part.contains(document.activeElement)); // and would be hidden
  show = next;
  document.body.dataset.state = next.kind;
  if (left) $(next.kind === "idle" ? "use-camera" : "stop").focus();
  setRatio(next.size ? next.size.width / next.size.height : 1.6);
  $("switch").hidden = true;
  for (const id of ["fps", "latency", "age"]) $(id).textContent = "–";
  for (const id of ["people", "dropped"]) $(id).textContent = "0";
  hush();
  describe();
}

function goIdle(sentence = "", needsKey = false) {
  change({ kind: "idle" });
  $("key-form").hidden = !needsKey;
  note(sentence);
  if (needsKey) $("key").focus();
}

/** What keeps the start page from going on, or nothing. */
function note(sentence) {
  $("notice").textContent = sentence;
  $("notice").hidden = !sentence;
  if (sentence) $("notice").scrollIntoView({ block: "nearest" });
  say("");
}

/** Of a file that is no use: what is shown goes on. */
function complain(sentence) {
  if (show.kind === "idle") note(sentence);
  else toast(sentence, TOAST_MS);
}

function setRatio(ratio) {
  document.documentElement.style.setProperty("--ratio", String(Math.min(Math.max(ratio, 0.5), 2.4)));
}

/** Words for the canvas, and the number of people beside it. */
function describe() {
  $("people").textContent = String(people.list.length);
  const text = show.kind === "idle" ? "A dancing figure of seventeen points" : counted();
  if (canvas.getAttribute("aria-label") !== text) canvas.setAttribute("aria-label", text);
}

const counted = () => (people.list.length === 1 ? "1 person" : `${people.list.length} people`);
const rounded = (value) => (value === null ? "–" : String(Math.round(value)));

// --- the draw loop --------------------------------------------------------------------------------------------------

function draw(now) {
  requestAnimationFrame(draw);
  const ratio = Math.min(devicePixelRatio || 1, 2);
  const size = { width: canvas.clientWidth, height: canvas.clientHeight };
  const [width, height] = [Math.round(size.width * ratio), Math.round(size.height * ratio)];
  const still = show.kind === "picture" ? [show, people, width, height] : [];
  if (still.length && still.every((part, index) => part === drawn[index])) return; // a large picture takes its time
  drawn = still;
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, size.width, size.height);
  if (show.kind !== "idle") return drawShow(now, size);
  const beside = $("welcome").clientWidth < size.width * 0.8;
  drawDancer(context, size, calm.matches ? 0.9 : now / 1000, beside ? null : $("heading").offsetTop);
}

function drawShow(now, place) {
  const source = show.image ?? video;
  if (source === video && video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return;
  drawSource(context, source, show.size, makeView(show.size, place, Boolean(show.mirrored)));
  const age = show.kind === "live" ? now - people.at : 0;
  const alpha = Math.min(Math.max(2 - age / STALE_MS, 0), 1);
  if (alpha > 0) drawPeople(context, people.list, makeView(people.size, place, Boolean(show.mirrored)), { alpha });
}

// --- a picture ------------------------------------------------------------------------------------------------------

async function showPicture(file) {
  const mine = (chosen = { again: () => showPicture(file) });
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    if (chosen === mine) complain("This browser cannot open that picture. A JPEG, PNG or WebP file will do.");
    return;
  }
  if (chosen !== mine) return image.close();
  const size = { width: image.width, height: image.height };
  change({ kind: "picture", image, size });
  const ours = show;
  say("Looking for people…");
  try {
    const started = performance.now();
    const answer = await peopleIn(file, image, size, key());
    if (show !== ours) return;
    people = { list: answer.people.map(countedFromOne), size: answer.image, at: performance.now() };
    $("latency").textContent = rounded(performance.now() - started);
    $("age").textContent = rounded(answer.timing_ms.total);
    describe();
    say(people.list.length ? `${counted()} found.` : "Nobody was found in this picture.");
  } catch (error) {
    if (show !== ours) return;
    goIdle(error instanceof Refused ? error.message : "Something went wrong with that picture.", error.needsKey);
  }
}

const countedFromOne = (person) => ({ ...person, id: person.id + 1 });

// --- camera and video -----------------------------------------------------------------------------------------------

async function showCamera(deviceId) {
  const mine = (chosen = { again: () => showCamera(deviceId) });
  goIdle();
  say("Waiting for the camera…");
  let camera = null;
  try {
    camera = await openCamera(deviceId);
    if (chosen !== mine) return stopCamera(camera);
    video.srcObject = camera;
    await video.play();
    if (chosen !== mine) return stopCamera(camera);
  } catch (error) {
    if (camera) stopCamera(camera);
    if (chosen === mine) goIdle(explainCamera(error));
    return;
  }
  camera.getVideoTracks()[0].onended = () => goIdle("The camera was disconnected.");
  startLive({ camera, mirrored: facesUser(camera) });
  const another = await nextCamera(camera);
  if (show.camera !== camera) return;
  $("switch").hidden = !another;
  $("switch").onclick = () => showCamera(another);
}

async function showVideo(file) {
  const mine = (chosen = { again: () => showVideo(file) });
  goIdle();
  say("Opening the video…");
  const url = URL.createObjectURL(file);
  try {
    video.src = url;
    video.loop = true;
    await video.play();
    if (chosen !== mine) return URL.revokeObjectURL(url);
    if (!video.videoWidth) throw new Error("no pictures in it");
  } catch {
    URL.revokeObjectURL(url);
    if (chosen === mine) goIdle("This browser cannot play that video. An MP4 (H.264) or WebM file will do.");
    return;
  }
  startLive({ url, mirrored: false });
}

function startLive(source) {
  const size = { width: video.videoWidth, height: video.videoHeight };
  change({ kind: "live", size, ...source, meter: new Meter(), missed: 0, droppedByServer: 0, stream: null });
  say("Connecting…");
  connect();
  infer(show);
}

function connect() {
  const ours = show;
  ours.stream?.close();
  ours.stream = null;
  if (document.hidden) return; // until somebody looks at it
  const on = {
    answer: (answer, roundTripMs) => take(ours, answer, roundTripMs),
    problem: (error) => {
      sayConnected();
      toast(error.status === 503 ? "The server is busy." : `${error.title}.`);
    },
    state: (name, sentence) => {
      if (name === "refused") return goIdle(sentence, true);
      forgetAnswers(ours); // nobody looks any more: what was seen last is no answer
      toast(sentence);
      say(sentence);
    },
  };
  ours.stream = new PoseStream(on, key());
}

/** At the first word on a frame, not before: a server about to stop takes a connection only to close it again. */
const sayConnected = () => say(capture.isTrue ? "Connected." : HIDDEN);

function take(ours, answer, roundTripMs) {
  people = { list: answer.people, size: answer.image, at: performance.now() };
  ours.meter.add({ roundTripMs, ageMs: answer.age_ms });
  ours.droppedByServer = answer.dropped;
  toast("");
  sayConnected();
  describe();
}

function forgetAnswers(ours) {
  people = { ...people, list: [] };
  ours.meter = new Meter();
  describe();
}

/** The infer loop: sends the newest frame whenever the server can take one, and never holds up the drawing. */
async function infer(ours) {
  while (show === ours) {
    await nextFrame(video);
    if (show !== ours) return;
    resize(ours);
    if (document.hidden || video.paused) continue;
    if (!ours.stream?.ready) {
      ours.missed += 1;
      continue;
    }
    const frame = await capture.encode(video, ours.size);
    if (show === ours && frame && !ours.stream?.send(frame)) ours.missed += 1;
  }
}

/** A phone that is turned changes the size of its camera's picture. */
function resize(ours) {
  const { videoWidth: width, videoHeight: height } = video;
  if (!width || (width === ours.size.width && height === ours.size.height)) return;
  ours.size = { width, height };
  setRatio(width / height);
}

function showFigures() {
  if (show.kind !== "live") return;
  if (people.list.length && performance.now() - people.at > 2 * STALE_MS) forgetAnswers(show); // they have faded out
  if (show.camera?.getVideoTracks()[0].muted) toast("The camera sends no pictures."); // until an answer comes again
  $("fps").textContent = rounded(show.meter.rate());
  $("latency").textContent = rounded(show.meter.mean("roundTripMs"));
  $("age").textContent = rounded(show.meter.mean("ageMs"));
  $("dropped").textContent = String(show.missed + show.droppedByServer);
}

// --- what the user does ---------------------------------------------------------------------------------------------

function showFile(file) {
  if (!file) return;
  if (file.type.startsWith("image/")) showPicture(file);
  else if (file.type.startsWith("video/") || /\.(mkv|mov|mp4|webm)$/i.test(file.name)) showVideo(file);
  else complain("That is neither a picture nor a video.");
}

function choose() {
  $("file").value = "";
  $("file").click();
}

function stop() {
  chosen = null;
  goIdle();
}

$("use-camera").addEventListener("click", () => showCamera());
$("choose").addEventListener("click", choose);
$("another").addEventListener("click", choose);
$("stop").addEventListener("click", stop);
$("file").addEventListener("change", () => showFile($("file").files[0]));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  noteKey($("key").value.trim());
  chosen?.again();
});

onFiles(showFile, (over) => document.body.classList.toggle("dropping", over));
addEventListener("pagehide", stop);
document.addEventListener("visibilitychange", () => {
  if (show.kind !== "live") return;
  if (document.hidden) {
    show.stream?.close();
    show.stream = null;
    if (show.url) video.pause();
  } else {
    play();
    connect();
  }
});
video.addEventListener("pause", () => {
  if (show.kind === "live" && !document.hidden) play(); // a phone's call, headphones pulled out: nobody here stops it
});

const play = () => video.play().catch(() => {}); // it was asked for, and may be gone by now

new ResizeObserver(([{ contentRect }]) => {
  document.documentElement.style.setProperty("--stage-width", `${contentRect.width}px`);
}).observe($("stage"));
setInterval(showFigures, 250);
requestAnimationFrame(draw);
describe();
