/**
 * The side door of ktx-spool for Node: an event is a file in `spool/aside`, on disk when `capture` returns.
 *
 *     import { Telemetry } from "./spool.mjs";
 *     const telemetry = new Telemetry({ app: "ktx", version: "0.12.0", projectKey: "phc_...", catalogue: "ktx" });
 *     const { state } = telemetry.capture("scan_completed", { ... }); // "aside": kill -9 can't lose it any more
 *
 * To use it, copy this file, identity.mjs and files.mjs into your program: they need Node 18 and nothing else. It
 * only spools; `ktx-flush` checks, numbers and delivers. Why each step is as it is: spool/DESIGN.md, "The door for
 * other languages". `capture` throws for nothing that the machine does, opens no connection, leaves stdout alone.
 */
import { randomUUID } from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { makePrivate, random, stamp, sync, writeAtomic, writeNew } from "./files.mjs";
import { homeOf, identityOf, isSet, prefixOf } from "./identity.mjs";

export const VERSION = "0.1.0"; // as in spool/settings.py, like the host and the limits
const HOST = "https://us.i.posthog.com";
const MAX_EVENT_BYTES = 900_000;
const LOOK_EVERY = 64; // events, from one look at how many files wait to the next: listing 10,000 takes 5 ms
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const isName = (value) => typeof value === "string" && /[^\s\x1c-\x1f\x85]/.test(value) && [...value].length <= 200;
const attempt = (step) => { try { return step(); } catch { return undefined; } };
const say = (line) => attempt(() => fs.writeFileSync(2, `${line}\n`)); // process.stderr would throw later, at nobody

/** The author's to mend: thrown with `<APP>_TELEMETRY_STRICT=1`, else counted as lost under `cause`. */
export class InvalidEventError extends Error {
  cause = "invalid";
}

/**
 * Spools a host's events. Options: `app`, `version`; `home`; `projectKey` and `host`, left for a bare `ktx-flush`;
 * `catalogue`, "ktx" to have the flusher hold the events to ktx's; `durability`, "power" for power cuts too;
 * `maxEvents`, of which the oldest goes; `geoipDisable` and `personProfiles`, as in Python; `check(event, properties)`,
 * which throws for what is wrong.
 */
export class Telemetry {
  #options;
  #prefix;
  #stored = 0;

  constructor(options) {
    this.#options = { host: HOST, maxEvents: 10_000, geoipDisable: true, personProfiles: true, ...options };
    this.#prefix = `${prefixOf(options.app)}TELEMETRY_`;
    if (options.projectKey?.startsWith("phx_")) throw new TypeError("projectKey is a personal one (phx_): use a phc_");
  }

  get home() { return homeOf(this.#options.app, this.#options.home); }

  /** `{ installId, enabled, decidedBy }`, as they are now. */
  get identity() { return identityOf(this.#options.app, this.home); }

  /**
   * Put an event on disk. Gives `{ state, uuid, reason }`: "aside" (it is on disk), "debug", "disabled" or "lost".
   * Options: `distinctId`, `groups`, `timestamp` (a Date), `uuid`.
   */
  capture(event, properties, options) {
    const debug = isSet(process.env[`${this.#prefix}DEBUG`]);
    try {
      const { installId, enabled, decidedBy } = debug ? this.identity : this.#admit();
      if (!enabled && !debug) return { state: "disabled", uuid: null, reason: decidedBy };
      const frozen = this.#freeze(event, properties, installId ?? "unknown", options ?? {});
      if (!debug) return this.#store(frozen);
      say(`[telemetry] ${frozen.text}`);
      return { state: "debug", uuid: frozen.uuid, reason: "telemetry is in debug mode: nothing is stored or sent" };
    } catch (error) {
      const mistake = error instanceof InvalidEventError;
      if (mistake && isSet(process.env[`${this.#prefix}STRICT`])) throw error;
      if (mistake && !debug) this.#countLost(error.cause);
      return { state: "lost", uuid: null, reason: String(mistake ? error.message : error) };
    }
  }

  // -- the event --------------------------------------------------------------------------------------------

  #freeze(event, properties, installId, { distinctId, groups, timestamp, uuid = randomUUID() }) {
    let cause = "invalid";
    try {
      const distinct_id = distinctId || installId;
      if (!isName(event) || !isName(distinct_id)) throw new Error("event or distinctId is no text of 1 to 200");
      if (!UUID.test(uuid)) throw new Error("uuid is no UUID");
      if (Array.isArray(properties) || typeof (properties ?? {}) !== "object") throw new Error("properties: no object");
      if (event !== "install_first_run") this.#options.check?.(event, properties ?? {});
      const moment = new Date(timestamp ?? Date.now()).toISOString().replace("Z", "000Z");
      if (moment.length !== 27) throw new Error("the timestamp is out of range");
      const message = { uuid: uuid.toLowerCase(), event, distinct_id, timestamp: moment };
      const text = ascii(JSON.stringify({ ...message, properties: { ...properties, ...this.#common(groups) } }));
      if (text.length > MAX_EVENT_BYTES) {
        cause = "too_large";
        throw new Error(`${text.length} bytes, and ${MAX_EVENT_BYTES} are the limit`);
      }
      return { uuid: message.uuid, text };
    } catch (error) {
      throw Object.assign(new InvalidEventError(`${event}: ${error?.message}`), { cause });
    }
  }

  #common(groups) {
    const { version, geoipDisable, personProfiles } = this.#options;
    const named = Object.entries(groups ?? {}).filter(([, name]) => name);
    const alone = personProfiles ? {} : { $process_person_profile: false };
    return {
      cliVersion: String(version), nodeVersion: process.version, osPlatform: process.platform, osRelease: os.release(),
      arch: process.arch, runtime: "node", isCi: isSet(process.env.CI),
      $lib: "ktx-spool", $lib_version: VERSION, ...(named.length ? { $groups: Object.fromEntries(named) } : alone),
      $geoip_disable: geoipDisable, $ignore_sent_at: true,
    };
  }

  // -- its file ---------------------------------------------------------------------------------------------

  #aside() {
    const spool = `${this.home}/spool`;
    for (const folder of [spool, `${spool}/aside`]) makePrivate(folder);
    return `${spool}/aside`;
  }

  #store({ uuid, text }) {
    const [home, name, durable] = [this.home, `${stamp()}-${uuid}.json`, this.#options.durability === "power"];
    const [draft, target] = [`${home}/spool/aside/.${name}`, `${home}/spool/aside/${name}`];
    try {
      this.#aside();
      writeNew(draft, text, durable);
      const now = this.identity; // whoever said no in between is obeyed
      if (!now.enabled) {
        fs.unlinkSync(draft);
        return { state: "disabled", uuid: null, reason: now.decidedBy };
      }
      fs.renameSync(draft, target);
      if (durable) [`${home}/spool/aside`, `${home}/spool`, home, path.dirname(home)].forEach(sync);
    } catch (error) {
      for (const left of [draft, target]) attempt(() => fs.unlinkSync(left)); // said to be lost: it must not arrive
      this.#countLost(error.code === "ENOSPC" ? "disk_full" : "unavailable");
      return { state: "lost", uuid, reason: `${home}/spool/aside can't be written: ${error.message}` };
    }
    if (this.#stored++ % LOOK_EVERY === 0) attempt(() => this.#keepWithin(home));
    if (this.#stored === 1) attempt(() => this.#leaveDestination(`${home}/spool/destination.json`));
    return { state: "aside", uuid, reason: null };
  }

  /** An empty file whose name says all: the flusher counts it. */
  #countLost(cause) {
    attempt(() => writeNew(`${this.#aside()}/${stamp()}-${random()}.${cause}.1.lost`, ""));
  }

  #keepWithin(home) {
    const waiting = fs.readdirSync(`${home}/spool/aside`).filter((name) => name.endsWith(".json") && name[0] !== ".");
    for (const name of waiting.sort().slice(0, Math.max(0, waiting.length - this.#options.maxEvents))) {
      fs.unlinkSync(`${home}/spool/aside/${name}`);
      this.#countLost("over_count");
    }
  }

  /** Tell a bare flusher where to deliver. What a Python host left there beside stays. */
  #leaveDestination(file) {
    const [host, projectKey] = [this.#options.host, this.#options.projectKey].map((value) => value?.trim() || null);
    const { catalogue } = this.#options;
    const before = attempt(() => JSON.parse(fs.readFileSync(file, "utf8"))) ?? {};
    const project_key = projectKey ?? before.project_key ?? null;
    if (before.host === host && before.project_key === project_key) return;
    const after = { ...before, ...(catalogue && { catalogue }), host, project_key };
    writeAtomic(file, `${JSON.stringify(after, null, 2)}\n`);
  }

  // -- the first run: one of many at once publishes its id --------------------------------------------------

  #admit() {
    const identity = this.identity;
    if (!identity.enabled || identity.installId !== null) return identity;
    try {
      this.#firstRun(this.home, this.#aside(), randomUUID(), new Date().toISOString());
      return this.identity;
    } catch {
      return { installId: null, enabled: false, decidedBy: "home not usable" };
    }
  }

  #firstRun(home, aside, installId, now) {
    const { text } = this.#freeze("install_first_run", {}, installId, { timestamp: now, uuid: installId });
    const event = `${aside}/.first-run-${installId}.json`;
    const draft = `${home}/.telemetry.json.${process.pid}.${random()}`;
    const fields = { installId, enabled: true, noticeShownAt: now, noticeShownVersion: 1, createdAt: now };
    try {
      writeNew(event, text, true); // before the id: killed after it, the flusher gives the event its name
      writeNew(draft, `${JSON.stringify(fields, null, 2)}\n`, true);
      fs.linkSync(draft, `${home}/telemetry.json`);
    } catch (error) {
      attempt(() => fs.unlinkSync(event));
      if (error.code === "EEXIST") return; // another process was faster
      throw error;
    } finally {
      attempt(() => fs.unlinkSync(draft));
    }
    attempt(() => sync(home));
    attempt(() => fs.renameSync(event, `${aside}/${stamp()}-${installId}.json`));
    say(`${this.#options.app} collects anonymous usage data to improve the product. To say no:`
      + ` set ${this.#prefix}DISABLED=1, or run ktx-flush --app ${this.#options.app} disable.`);
  }
}

/** Escape what is not ASCII; half a surrogate pair, which JSON.stringify has escaped already, becomes U+FFFD. */
function ascii(json) {
  return json.replace(/\\ud[89a-f]..|\\.|[^\0-\x7f]/g, (found) => {
    if (found.length > 1) return found.length > 2 ? "\\ufffd" : found;
    return `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}
