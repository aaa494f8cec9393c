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

/** Encodes `source` (video, picture) of `size` {width, height} as a JPEG Blob, no longer than `longSidePx`. */
export class Capture {
  #canvas = document.createElement("canvas");

  encode(source, size, longSidePx = LONG_SIDE_PX) {
    const scale = Math.min(1, longSidePx / Math.max(size.width, size.height));
    this.#canvas.width = Math.max(1, Math.round(size.width * scale));
    this.#canvas.height = Math.max(1, Math.round(size.height * scale));
    const context = this.#canvas.getContext("2d", { alpha: false });
    context.drawImage(source, 0, 0, this.#canvas.width, this.#canvas.height);
    return new Promise((resolve) => this.#canvas.toBlob(resolve, "image/jpeg", QUALITY));
  }
}
