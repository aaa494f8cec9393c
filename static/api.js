// The server: one picture by POST /pose, or a stream of frames by WebSocket /stream.

const MAX_IN_FLIGHT = 2; // one in the networks, one on its way; more would only grow old
const LONGEST_SILENCE_MS = 10_000; // a connection that answers no frame for so long is lost
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8_000;
const NO_STREAM = "The server takes no stream from this page: a proxy must pass Host, Upgrade and Connection on.";

/** The server refused with an HTTP status, or was not there (0); `message` is a sentence. */
export class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.tooLarge = status === 413;
    this.needsKey = status === 401;
  }
}

/** What to say when the server wants another key than `key`, or one at all. */
export function keySentence(key) {
  return key ? "The server does not accept that API key." : "This server asks for an API key.";
}

/** The people in `picture` (a Blob): the answer of POST /pose. Throws Refused. */
export async function findPeople(picture, key) {
  const headers = { "Content-Type": picture.type, ...(key && { "X-API-Key": utf8(key) }) };
  let response;
  try {
    response = await fetch("pose", { method: "POST", headers, body: picture });
  } catch {
    throw new Refused("The server cannot be reached. Is the network up?");
  }
  if (response.ok) return response.json();
  if (response.status === 401) throw new Refused(keySentence(key), 401);
  const problem = await response.json().catch(() => ({}));
  throw new Refused(sentence(problem, response.status), response.status);
}

function sentence(problem, status) {
  if (!problem.title) return `The server answered with status ${status}.`;
  return `${problem.title}${problem.detail ? `: ${problem.detail}` : ""}.`;
}

/**
 * A stream that mends itself. `on` has three functions: `answer(answer, roundTripMs)`, `problem(error)` for a refused
 * frame, and `state(name, sentence)` with "waiting" (it will try again) or "refused" (only a key can help).
 */
export class PoseStream {
  #socket = null;
  #sentAt = new Map(); // frame number -> when it was sent
  #nextFrame = 0;
  #failures = 0;
  #opened = false; // has this connection, ever
  #timer = 0;
  #watchdog = 0;

  constructor(on, key) {
    this.on = on;
    this.key = key;
    this.#connect();
  }

  /** Whether a frame sent now would be worked on soon. */
  get ready() {
    return this.#socket?.readyState === WebSocket.OPEN && this.#sentAt.size < MAX_IN_FLIGHT;
  }

  send(frame) {
    if (!this.ready) return false;
    this.#socket.send(frame);
    this.#sentAt.set(this.#nextFrame, performance.now());
    this.#nextFrame += 1;
    return true;
  }

  close() {
    this.#forget();
    clearTimeout(this.#timer);
    this.#timer = 0;
  }

  #connect() {
    const protocols = this.key ? ["pose.v1", `pose.key.${base64url(this.key)}`] : ["pose.v1"];
    const url = new URL("stream", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, protocols);
    socket.onmessage = (event) => this.#heard(JSON.parse(event.data));
    socket.onopen = () => (this.#opened = true);
    socket.onclose = (event) => this.#lost(event.code);
    this.#socket = socket;
    this.#opened = false;
    this.#nextFrame = 0;
    this.#watchdog = setInterval(() => this.#watch(), 1000);
  }

  #heard(message) {
    const now = performance.now();
    const roundTripMs = now - (this.#sentAt.get(message.frame) ?? now);
    for (const number of this.#sentAt.keys()) {
      if (number <= message.frame) this.#sentAt.delete(number); // older ones were dropped for this one
    }
    if (message.error) {
      this.on.problem(message.error);
    } else {
      this.#failures = 0;
      this.on.answer(message, roundTripMs);
    }
  }

  #watch() {
    const oldest = Math.min(...this.#sentAt.values());
    if (performance.now() - oldest > LONGEST_SILENCE_MS) this.#lost(1006);
  }

  #lost(code) {
    this.#forget();
    if (code === 1008) {
      this.on.state("refused", keySentence(this.key));
      return;
    }
    const waitMs = Math.min(FIRST_WAIT_MS * 2 ** this.#failures, LONGEST_WAIT_MS);
    this.#failures += 1;
    this.on.state("waiting", reasonOf(code));
    if (!this.#opened) this.#askWhy();
    this.#timer = setTimeout(() => this.#connect(), waitMs * (0.75 + 0.5 * Math.random())); // not all clients at once
  }

  /** A browser does not tell a page why a handshake failed; whether the server is there, the page can ask. */
  async #askWhy() {
    const answer = await fetch("livez").catch(() => null);
    if (answer?.ok && !this.#opened && this.#timer) this.on.state("waiting", NO_STREAM);
  }

  #forget() {
    clearInterval(this.#watchdog);
    this.#sentAt.clear();
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }
}

function reasonOf(code) {
  if (code === 1012) return "The server is restarting. Trying again…";
  if (code === 1013) return "The server is full at the moment. Trying again…";
  if (code === 1001) return "The server ended the session. Connecting again…";
  return "The connection was lost. Trying again…";
}

/** The bytes of a text, one a character: what a header or base64 can hold. */
function utf8(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

function base64url(text) {
  return btoa(utf8(text)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}
