// What the page says: in the line below the picture, which screen readers read out, and over the picture.

const status = document.getElementById("status");
const box = document.getElementById("toast");
let held = 0; // the timer of a toast that is to be read

export function say(sentence) {
  if (status.textContent !== sentence) status.textContent = sentence;
}

/** Nothing is over what is shown, not even what is to be read. */
export function hush() {
  clearTimeout(held);
  held = 0;
  toast("");
}

/** A sentence over what is shown: until another one, or for `holdMs`. */
export function toast(sentence, holdMs = 0) {
  if (held && !sentence) return;
  clearTimeout(held);
  held = holdMs && setTimeout(() => { held = 0; toast(""); }, holdMs);
  box.textContent = sentence;
  box.hidden = !sentence;
}
