/**
 * How the door writes: small private files, 0600 in 0700 folders under any umask, never through a link.
 */
import { randomBytes } from "node:crypto";
import fs from "node:fs";
import path from "node:path";

const POSIX = process.platform !== "win32";

export const random = () => randomBytes(4).toString("hex");

let last = 0n;
/** Nanoseconds in 20 digits, never the same twice in a process: names sort as the events came. */
export function stamp() {
  const now = BigInt(Date.now()) * 1_000_000n;
  last = now > last ? now : last + 1n;
  return `${last}`.padStart(20, "0");
}

/** Node's own `recursive` never returns where a folder can't be made in one that is there, as in /proc. */
function makeFolder(folder, parentIsThere = false) {
  try {
    fs.mkdirSync(folder, 0o700);
    if (POSIX) fs.chmodSync(folder, 0o700); // whatever the umask is
  } catch (error) {
    if (error.code === "EEXIST") return;
    if (error.code !== "ENOENT" || parentIsThere) throw error;
    makeFolder(path.dirname(folder));
    makeFolder(folder, true);
  }
}

/** Make sure of a real folder of ours that nobody else can enter. */
export function makePrivate(folder) {
  makeFolder(folder);
  const status = fs.lstatSync(folder);
  const ours = status.isDirectory() && status.uid === (process.geteuid?.() ?? status.uid);
  if (!ours) throw new Error(`${folder} is no folder of ours: it is left alone`);
  if (POSIX && (status.mode & 0o777) !== 0o700) fs.chmodSync(folder, 0o700);
}

/** Create a file; EEXIST if it is there. What fails leaves nothing behind. */
export function writeNew(file, text, durable = false) {
  const descriptor = fs.openSync(file, "wx", 0o600);
  try {
    if (POSIX) fs.fchmodSync(descriptor, 0o600);
    fs.writeFileSync(descriptor, text);
    if (durable) fs.fsyncSync(descriptor);
  } catch (error) {
    fs.unlinkSync(file);
    throw error;
  } finally {
    fs.closeSync(descriptor);
  }
}

/** Write a file beside its place and give it its name in one step: a reader sees the old one or the new one, whole. */
export function writeAtomic(file, text) {
  const draft = file.replace(/[^/]+$/, `.$&.${process.pid}.${random()}`);
  writeNew(draft, text, true);
  fs.renameSync(draft, file);
}

/** Make the names in a folder survive a power cut; Windows has no such call. */
export function sync(folder) {
  if (!POSIX) return;
  const descriptor = fs.openSync(folder, "r");
  try {
    fs.fsyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
}
