// The API key: kept for this tab, or for as long as the page where the browser keeps no site data.

const NAME = "pose-api-key";

let current = null;
try {
  current = sessionStorage.getItem(NAME);
} catch {
  // No site data: nothing was noted.
}

/** The key the user gave; null where none was asked for. */
export const key = () => current;

export function noteKey(text) {
  current = text;
  try {
    sessionStorage.setItem(NAME, text);
  } catch {
    // Then it lasts as long as the page.
  }
}
