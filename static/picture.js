// A picture's way to the server: as the file is, or smaller.

import { findPeople } from "./api.js";
import { Capture } from "./capture.js";

const SENT_AS_IS = ["image/jpeg", "image/png", "image/webp"];
const SIDE_PX = 2048; // pictures that are encoded anew are made no larger

/** The answer to the picture in `file`, decoded as `image` of `size`. Throws Refused. */
export async function peopleIn(file, image, size, key) {
  try {
    if (SENT_AS_IS.includes(file.type)) return await findPeople(file, key);
  } catch (error) {
    if (!error.tooLarge) throw error;
  }
  return findPeople(await new Capture().encode(image, size, SIDE_PX), key);
}
