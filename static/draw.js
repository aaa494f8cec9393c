// Drawing, and nothing else: pure functions of a 2D context and of what to draw.

import { isFace, LIMBS, sideOf } from "./skeleton.js";

const SEEN_SHARE = 0.5; // a keypoint is drawn if it scores at least this share of the person's better ones
const SEEN_FLOOR = 0.08; // and at least this
const HUES = [172, 10, 44, 258, 202, 328, 88, 26]; // far apart for the first people, readable on skin and on walls
const LIGHTNESS = { left: 60, middle: 72, right: 82 }; // a person's own left is the stronger shade

/**
 * How a picture of `source` {width, height} lies in a place of `target` {width, height}: as large as fits, centred.
 * This is the one place that knows about mirroring; all drawing goes through `x`, `y` and `scale`.
 */
export function makeView(source, target, mirrored) {
  const scale = Math.min(target.width / source.width, target.height / source.height);
  const left = (target.width - source.width * scale) / 2;
  const top = (target.height - source.height * scale) / 2;
  const x = (value) => (mirrored ? target.width - left - value * scale : left + value * scale);
  return { scale, mirrored, width: target.width, x, y: (value) => top + value * scale };
}

/** The picture or the video's current frame, where `view` puts it. */
export function drawSource(context, source, size, view) {
  context.save();
  context.translate(view.x(0), view.y(0));
  context.scale(view.mirrored ? -view.scale : view.scale, view.scale);
  context.drawImage(source, 0, 0, size.width, size.height);
  context.restore();
}

/** Everybody's skeleton, and then the ids above the heads. `alpha` 0..1 fades old answers out. */
export function drawPeople(context, people, view, { alpha = 1, labels = true } = {}) {
  context.save();
  context.globalAlpha = alpha;
  context.lineCap = "round";
  context.lineJoin = "round";
  const drawn = people.map((person) => ({ person, seen: seenPoints(person, view), width: strokeWidth(person, view) }));
  for (const { person, seen, width } of drawn) drawPerson(context, person, seen, width);
  for (const { person, seen, width } of drawn) if (labels && seen.size) drawLabel(context, person, seen, width, view);
  context.restore();
}

/** The colour of a person's left, right or middle. The same id has the same colour in every frame. */
export function colourOf(id, side) {
  const hue = HUES[((id % HUES.length) + HUES.length) % HUES.length];
  return `hsl(${hue} 85% ${LIGHTNESS[side]}%)`;
}

/** By name, where the keypoints lie that are sure enough to be drawn. */
function seenPoints(person, view) {
  const least = leastScore(person.keypoints);
  const seen = person.keypoints.filter((point) => point.score >= least);
  return new Map(seen.map((point) => [point.name, { x: view.x(point.x), y: view.y(point.y) }]));
}

function drawPerson(context, person, seen, width) {
  const limbs = LIMBS.filter(([from, to]) => seen.has(from) && seen.has(to));
  for (const outline of [true, false]) {
    for (const [from, to] of limbs) {
      const thin = isFace(from) ? 0.5 : 1;
      context.strokeStyle = outline ? "rgb(8 10 13 / 45%)" : colourOf(person.id, sideOf(from, to));
      context.lineWidth = width * thin + (outline ? Math.max(2, width * 0.5) : 0);
      line(context, seen.get(from), seen.get(to));
    }
  }
  for (const [name, point] of seen) {
    dot(context, point, width * (isFace(name) ? 0.5 : 0.85), colourOf(person.id, sideOf(name)));
  }
}

/** Networks differ in how high they score, so a score is judged beside the others: the service's tracking does the same. */
function leastScore(keypoints) {
  const scores = keypoints.map((point) => point.score).sort((a, b) => b - a);
  return Math.max(SEEN_FLOOR, SEEN_SHARE * scores[Math.floor(scores.length / 4)]);
}

function strokeWidth(person, view) {
  const [x1, y1, x2, y2] = person.box;
  const size = Math.sqrt(Math.max((x2 - x1) * (y2 - y1), 1)) * view.scale;
  return Math.min(Math.max(size * 0.016, 2.5), 10);
}

function line(context, from, to) {
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(to.x, to.y);
  context.stroke();
}

function dot(context, point, radius, colour) {
  context.beginPath();
  context.arc(point.x, point.y, radius, 0, 2 * Math.PI);
  context.fillStyle = "#ffffff";
  context.fill();
  context.lineWidth = Math.max(1, radius * 0.55);
  context.strokeStyle = colour;
  context.stroke();
}

function drawLabel(context, person, seen, width, view) {
  const points = [...seen.values()];
  const face = [...seen].filter(([name]) => isFace(name)).map(([, point]) => point);
  const top = Math.min(view.y(person.box[1]), ...points.map((point) => point.y));
  const below = face.length ? face : points;
  const middle = below.reduce((sum, point) => sum + point.x, 0) / below.length;
  const size = Math.min(Math.max(width * 3.4, 13), 24);
  const text = String(person.id);
  context.font = `650 ${size}px system-ui, sans-serif`;
  const labelWidth = Math.max(context.measureText(text).width + size * 0.9, size * 1.5);
  const labelHeight = size * 1.5;
  const left = Math.min(Math.max(middle - labelWidth / 2, 4), view.width - labelWidth - 4);
  const labelTop = Math.max(top - labelHeight - width, 4);
  context.beginPath();
  context.roundRect(left, labelTop, labelWidth, labelHeight, labelHeight / 2);
  context.fillStyle = colourOf(person.id, "middle");
  context.fill();
  context.fillStyle = "#0b0e12";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(text, left + labelWidth / 2, labelTop + labelHeight / 2 + size * 0.04);
}
