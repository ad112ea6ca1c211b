/**
 * Who this install is, and whether it may be counted: the rules of spool/consent/rule.py and spool/consent/identity.py.
 * It only reads. Off always wins, and what can't be read means off.
 */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";

const MAX_HOME_BYTES = 440; // SQLite, which is to open the queue below it, takes no longer path
const MAX_FILE_BYTES = 64 * 1024;
const INSTALL_ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/i;
const isText = (value) => typeof value === "string";
// ktx's five keys and what they hold: with any other one the file is not ktx's, and so not readable.
const RULES = {
  __proto__: null,
  installId: (value) => isText(value) && INSTALL_ID.test(value),
  enabled: (value) => typeof value === "boolean",
  createdAt: isText,
  noticeShownAt: isText,
  noticeShownVersion: Number.isSafeInteger,
};

/** The prefix of an app's variables: `ktx` has `KTX_`. TypeError for a name that is no folder and no variable. */
export function prefixOf(app) {
  if (!/^[A-Za-z][A-Za-z0-9_-]{0,63}$/.test(app)) throw new TypeError("app is a plain name: letters, digits, - and _");
  return `${app.toUpperCase().replaceAll("-", "_")}_`;
}

/** A variable says yes with anything but empty, `0` or `false`. */
export const isSet = (value) => !/^[\t-\r\x1c- ]*(0|false)?[\t-\r\x1c- ]*$/i.test(value ?? "");

/** `home`, else `$<APP>_HOME`, else `~/.<app>`; null where none can be named. No `~` or `$` in it is expanded. */
export function homeOf(app, home) {
  try {
    const chosen = home ?? (process.env[`${prefixOf(app)}HOME`] || null);
    if (chosen !== null) return chosen.trim() && !chosen.includes("\0") ? path.resolve(chosen) : null;
    const base = (process.platform === "win32" ? os.homedir() : process.env.HOME) || os.userInfo().homedir;
    return path.isAbsolute(base) ? `${base}/.${app}` : null;
  } catch {
    return null; // relative, in a working folder that was deleted; or an account that nobody knows
  }
}

/** Answer `{ installId, enabled, decidedBy }`, by the first rule that applies: environment, home, file, first run. */
export function identityOf(app, home) {
  const off = [`${prefixOf(app)}TELEMETRY_DISABLED`, "DO_NOT_TRACK", "CI"].find((name) => isSet(process.env[name]));
  const trouble = troubleWith(home);
  const { says, installId = null } = trouble ? {} : read(`${home}/telemetry.json`);
  const rule = off ?? trouble ?? (says === "absent" ? troubleWithFirstRun(home) : null);
  if (rule) return { installId, enabled: false, decidedBy: rule };
  if (says === "unreadable") return { installId, enabled: false, decidedBy: "unreadable telemetry.json" };
  return { installId, enabled: says !== "disabled", decidedBy: says === "absent" ? "first run" : "telemetry.json" };
}

/** Root in somebody else's home (sudo) would leave files there that the owner can't write. */
function troubleWith(home) {
  try {
    // A name that is no UTF-8 comes as U+FFFD: that is another folder.
    if (Buffer.byteLength(home) > MAX_HOME_BYTES || home.includes("\ufffd")) return "home not usable";
    const [found, status] = nearest(home);
    if (found === home && !status.isDirectory()) return "home not usable";
    const me = process.geteuid?.() ?? status.uid;
    const owners = [status.uid, statusOf(found, fs.lstatSync).uid]; // whoever made a link says where it leads
    const foreign = (me === 0 && status.uid !== 0) || (found === home && !owners.every((uid) => [me, 0].includes(uid)));
    if (!foreign) fs.accessSync(found, fs.constants.X_OK);
    return foreign ? "home belongs to another user" : null;
  } catch {
    return "home not usable";
  }
}

/** A first run leaves a file there. And where everybody may write, anybody may have deleted the one that said no. */
function troubleWithFirstRun(home) {
  try {
    const [found, status] = nearest(home);
    if (found === home && openToAll(status)) return "home belongs to another user";
    fs.accessSync(found, fs.constants.W_OK | fs.constants.X_OK);
    return null;
  } catch {
    return "home not usable";
  }
}

/** The path, or the nearest folder above it that is there, and its status. */
function nearest(place) {
  let [found, status] = [place, statusOf(place)];
  while (!status && path.dirname(found) !== found) status = statusOf((found = path.dirname(found)));
  return [found, status];
}

/** Everybody may change the file, or what is in the folder. */
const openToAll = (status) => process.platform !== "win32" && (status.mode & 0o1002) === 0o002;

function statusOf(file, look = fs.statSync) {
  try {
    return look(file);
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

function read(file) {
  let descriptor;
  try {
    descriptor = fs.openSync(file, fs.constants.O_RDONLY | (fs.constants.O_NONBLOCK ?? 0)); // a pipe holds nobody up
    const status = fs.fstatSync(descriptor);
    const me = process.geteuid?.() ?? status.uid;
    const own = [status.uid, fs.lstatSync(file).uid].every((uid) => [me, 0].includes(uid)) && !openToAll(status);
    if (!own || !status.isFile() || status.size > MAX_FILE_BYTES) return { says: "unreadable" };
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    const fields = JSON.parse(decoder.decode(fs.readFileSync(descriptor)));
    const sound = ["installId", "enabled", "createdAt"].every((key) => Object.hasOwn(fields, key))
      && Object.entries(fields).every(([key, value]) => RULES[key]?.(value));
    if (!sound) return { says: "unreadable" };
    return { says: fields.enabled ? "enabled" : "disabled", installId: fields.installId };
  } catch (error) {
    const absent = error.code === "ENOTDIR" || (error.code === "ENOENT" && !statusOf(file, fs.lstatSync));
    return { says: absent ? "absent" : "unreadable" }; // a link that leads nowhere is there
  } finally {
    if (descriptor !== undefined) fs.closeSync(descriptor);
  }
}
