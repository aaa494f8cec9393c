// Files that are dropped or pasted anywhere on the page.

/** Calls `take(file)` for each, and `hover(true)` and `hover(false)` while one is dragged over the page. */
export function onFiles(take, hover) {
  let depth = 0; // enter and leave also fire for what lies inside the page
  const dragging = (event, change) => {
    if (!event.dataTransfer.types.includes("Files")) return; // words and links are no pictures
    depth = Math.max(depth + change, 0);
    hover(depth > 0);
  };
  addEventListener("dragenter", (event) => dragging(event, 1));
  addEventListener("dragleave", (event) => dragging(event, -1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    dragging(event, -depth);
    take(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => take(event.clipboardData.files[0]));
}
