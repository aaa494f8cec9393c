// Figures for the eye: averaged over the last moments, so that they can be read.

const WINDOW_MS = 2000;
const LEAST_MS = 300; // a rate of less is that of a burst

/** Averages and rates over the last two seconds. */
export class Meter {
  #events = []; // {at, ...values}, oldest first

  add(values, now = performance.now()) {
    this.#events.push({ at: now, ...values });
    while (this.#events[0].at < now - WINDOW_MS) this.#events.shift();
  }

  /** Events per second, or null where there are too few to tell. */
  rate(now = performance.now()) {
    const recent = this.#recent(now);
    const span = recent.length ? recent.at(-1).at - recent[0].at : 0;
    return span < LEAST_MS ? null : ((recent.length - 1) * 1000) / span;
  }

  /** The mean of one value, or null where there is none. */
  mean(name, now = performance.now()) {
    const recent = this.#recent(now);
    if (!recent.length) return null;
    return recent.reduce((sum, event) => sum + event[name], 0) / recent.length;
  }

  #recent(now) {
    return this.#events.filter((event) => event.at >= now - WINDOW_MS);
  }
}
