// COCO's 17 keypoints and the limbs between them, in the server's order of names.

export const NAMES = [
  "nose", "left_eye", "right_eye", "left_ear", "right_ear",
  "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
  "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
];

export const LIMBS = [
  ["left_ankle", "left_knee"], ["left_knee", "left_hip"], ["right_ankle", "right_knee"], ["right_knee", "right_hip"],
  ["left_hip", "right_hip"], ["left_shoulder", "left_hip"], ["right_shoulder", "right_hip"],
  ["left_shoulder", "right_shoulder"], ["left_shoulder", "left_elbow"], ["right_shoulder", "right_elbow"],
  ["left_elbow", "left_wrist"], ["right_elbow", "right_wrist"], ["left_eye", "right_eye"],
  ["nose", "left_eye"], ["nose", "right_eye"], ["left_eye", "left_ear"], ["right_eye", "right_ear"],
  ["left_ear", "left_shoulder"], ["right_ear", "right_shoulder"],
];

const FACE = /^(nose|(left|right)_(eye|ear))$/;

/** Whether a keypoint belongs to the head, where points lie close together. */
export function isFace(name) {
  return FACE.test(name);
}

/** "left" or "right" where all `names` are of one side of the body, else "middle". */
export function sideOf(...names) {
  const sides = new Set(names.map((name) => name.split("_")[0]));
  sides.delete("nose");
  return sides.size === 1 ? [...sides][0] : "middle";
}
