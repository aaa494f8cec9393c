// The figure on the start page: it shows what the service gives, drawn by the same code as a real answer.

import { drawPeople, makeView } from "./draw.js";
import { NAMES } from "./skeleton.js";

const UP = -Math.PI / 2;
const DOWN = Math.PI / 2;

/** Draws the figure into a place of `size`, above the words, which begin at `wordsTop`, or beside them (null). */
export function drawDancer(context, { width, height }, seconds, wordsTop) {
  const room = wordsTop === null
    ? { left: width * 0.5, top: height * 0.08, width: width * 0.46, height: height * 0.84 }
    : { left: 0, top: 0, width, height: wordsTop };
  const view = makeView({ width: 1, height: 1.1 }, room, false);
  const moved = { ...view, x: (value) => room.left + view.x(value), y: (value) => room.top + view.y(value) };
  drawPeople(context, [dancer(seconds)], moved, { labels: false });
}

/** One person in a picture of 1 x 1.1, `seconds` into a slow dance without end. */
function dancer(seconds) {
  const beat = seconds * 0.9;
  const sway = Math.sin(beat);
  const hips = { x: 0.5 + 0.025 * sway, y: 0.56 };
  const chest = from(hips, UP + 0.07 * Math.sin(beat + 0.6), 0.27);
  const head = from(chest, UP + 0.1 * Math.sin(beat + 1.2), 0.13);
  const points = { nose: head };
  for (const [side, sign, shift] of [["left", 1, 0], ["right", -1, 1.9]]) {
    const rise = Math.sin(beat + shift);
    const shoulder = { x: chest.x + 0.095 * sign, y: chest.y + 0.008 * rise };
    const elbow = from(shoulder, turned(sign, 0.1 - 0.5 * rise), 0.165);
    const wrist = from(elbow, turned(sign, -0.75 - 0.65 * Math.sin(beat + shift + 0.8)), 0.15);
    const hip = { x: hips.x + 0.056 * sign, y: hips.y };
    const knee = from(hip, DOWN - sign * (0.24 + 0.16 * sign * sway), 0.225);
    const ankle = from(knee, DOWN - sign * (0.02 - 0.14 * sign * sway), 0.225);
    const eye = { x: head.x + 0.03 * sign, y: head.y - 0.034 };
    const ear = { x: head.x + 0.066 * sign, y: head.y - 0.018 };
    for (const [name, point] of Object.entries({ shoulder, elbow, wrist, hip, knee, ankle, eye, ear })) {
      points[`${side}_${name}`] = point;
    }
  }
  return {
    id: 0,
    box: [0.2, 0.08, 0.8, 1.04],
    keypoints: NAMES.map((name) => ({ name, ...points[name], score: 1 })),
  };
}

/** `angle` above (negative) or below the horizontal, on the body's left (sign 1) or right (sign -1). */
function turned(sign, angle) {
  return sign > 0 ? angle : Math.PI - angle;
}

function from(point, angle, length) {
  return { x: point.x + length * Math.cos(angle), y: point.y + length * Math.sin(angle) };
}
