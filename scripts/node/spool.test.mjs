/** The door's own tests: `node --test spool.test.mjs`. What needs the Python side is in tests/events/test_node_door.py. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { InvalidEventError, Telemetry, VERSION } from "./spool.mjs";

const VARIABLES = ["KTX_TELEMETRY_DISABLED", "DO_NOT_TRACK", "CI"];
const ID = "0b9f8c1e-5a3f-4a63-9c1c-0a1d2e3f4a5b";
const MODULE = new URL("./spool.mjs", import.meta.url).href;
let folder;
let home;
let aside;

beforeEach(() => {
  const decides = (name) => VARIABLES.includes(name) || name.startsWith("KTX_");
  for (const name of Object.keys(process.env).filter(decides)) delete process.env[name];
  folder = fs.mkdtempSync(path.join(os.tmpdir(), "door-"));
  home = path.join(folder, "home");
  aside = path.join(home, "spool", "aside");
});

afterEach(() => fs.rmSync(folder, { recursive: true }));

const door = (more) => new Telemetry({ app: "ktx", version: "1.2.3", projectKey: "phc_test", home, ...more });
const identity = (more) => {
  fs.mkdirSync(home, { recursive: true });
  const fields = { installId: ID, enabled: true, createdAt: "2026-01-02T03:04:05.678Z", ...more };
  fs.writeFileSync(path.join(home, "telemetry.json"), JSON.stringify(fields));
};
const names = (ending) => fs.readdirSync(aside).filter((name) => name.endsWith(ending)).sort();
const events = () => names(".json").map((name) => JSON.parse(fs.readFileSync(path.join(aside, name), "utf8")));
const losses = () => names(".lost").map((name) => name.split(".")[1]);
const everything = () => fs.existsSync(home) && fs.readdirSync(home, { recursive: true }).sort();
/** Run code in a process of its own, with `Telemetry`, `door` and `receipt`. */
const run = (code, stdio = "pipe", env = {}) => {
  const head = `import { Telemetry } from ${JSON.stringify(MODULE)};
    const door = new Telemetry({ app: "ktx", version: "1", home: ${JSON.stringify(home)} });`;
  const options = { stdio, env: { ...process.env, ...env }, encoding: "utf8", timeout: 20_000 };
  return spawnSync(process.execPath, ["--input-type=module", "--eval", head + code], options);
};

test("an event is on disk, whole and private, when capture returns", () => {
  identity();
  const before = process.umask(0);
  const groups = { project: "0f", none: "" };
  const receipt = door({ durability: "power" }).capture("scan_completed", { tableCount: 12 }, { groups });
  process.umask(before);
  const [name] = names(".json");
  const [event] = events();
  assert.deepEqual(receipt, { state: "aside", uuid: event.uuid, reason: null });
  assert.match(name, new RegExp(`^\\d{20}-${event.uuid}\\.json$`));
  assert.match(event.timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
  assert.deepEqual({ ...event, timestamp: "" }, {
    uuid: event.uuid, event: "scan_completed", distinct_id: ID, timestamp: "",
    properties: {
      tableCount: 12, cliVersion: "1.2.3", nodeVersion: process.version, osPlatform: process.platform,
      osRelease: os.release(), arch: process.arch, runtime: "node", isCi: false, $lib: "ktx-spool",
      $lib_version: VERSION, $groups: { project: "0f" }, $geoip_disable: true, $ignore_sent_at: true,
    },
  });
  for (const entry of everything()) {
    const status = fs.statSync(path.join(home, entry));
    if (entry.startsWith("spool")) assert.equal(status.mode & 0o777, status.isDirectory() ? 0o700 : 0o600, entry);
  }
});

test("what a host chooses is what the event says", () => {
  identity();
  const uuid = "0F8FAD5B-D9CB-469F-A165-70867728950E";
  const chosen = { uuid, distinctId: "somebody", timestamp: new Date("2026-11-23T12:00:00.5+02:00") };
  const telemetry = door({ geoipDisable: false, personProfiles: false });
  assert.equal(telemetry.capture("x", { $lib: "mine" }, chosen).uuid, uuid.toLowerCase());
  const [{ distinct_id, timestamp, properties }] = events();
  assert.deepEqual([distinct_id, timestamp], ["somebody", "2026-11-23T10:00:00.500000Z"]);
  const { $lib, $geoip_disable, $process_person_profile } = properties;
  assert.deepEqual([$lib, $geoip_disable, $process_person_profile], ["ktx-spool", false, false]);
});

test("the text is ASCII, and every value is JSON that arrives", () => {
  identity();
  const text = "é\u2028\u{1f600}\ud800 \\ud800 \\\\ud800 \"\\";
  const odd = { text, "k\udc00é": 1, nan: NaN, big: Infinity, at: new Date(0), none: undefined };
  assert.equal(door().capture("é", odd).state, "aside");
  assert.match(fs.readFileSync(path.join(aside, names(".json")[0]), "latin1"), /^[\0-\x7f]*$/);
  const [{ event, properties }] = events();
  assert.equal(event, "é");
  assert.equal(properties.text, text.replace("\ud800 ", "\ufffd "));
  const { nan, big } = properties;
  assert.deepEqual([properties["k\ufffdé"], nan, big, "none" in properties], [1, null, null, false]);
  assert.equal(properties.at, "1970-01-01T00:00:00.000Z");
});

test("names sort as the events came", () => {
  identity();
  const telemetry = door();
  const uuids = Array.from({ length: 200 }, () => telemetry.capture("x").uuid);
  assert.deepEqual(events().map((event) => event.uuid), uuids);
});

const cycle = {};
cycle.self = cycle;
const MISTAKES = {
  "no name": [""], "blank name": [" \x1f"], "long name": ["x".repeat(201)], "name no text": [5],
  "properties text": ["x", "text"], "properties array": ["x", []], "properties number": ["x", 5],
  "bigint": ["x", { a: 1n }], "cycle": ["x", cycle], "getter": ["x", { get a() { throw null; } }],
  "uuid": ["x", {}, { uuid: "x" }], "distinct id": ["x", {}, { distinctId: "x".repeat(201) }],
  "timestamp": ["x", {}, { timestamp: new Date(NaN) }], "far future": ["x", {}, { timestamp: new Date(8.64e15) }],
};
for (const [name, call] of Object.entries(MISTAKES)) {
  test(`a mistake is counted, and thrown in strict mode only: ${name}`, () => {
    identity();
    const receipt = door().capture(...call);
    assert.deepEqual([receipt.state, receipt.uuid, typeof receipt.reason], ["lost", null, "string"]);
    assert.deepEqual([losses(), events()], [["invalid"], []]);
    process.env.KTX_TELEMETRY_STRICT = "1";
    assert.throws(() => door().capture(...call), InvalidEventError);
  });
}

test("an event over the limit is counted by that cause", () => {
  identity();
  assert.match(door().capture("x", { a: "é".repeat(150_000) }).reason, /^x: \d+ bytes, and 900000 are the limit$/);
  assert.equal(door().capture("x", { a: "x".repeat(899_000) }).state, "aside");
  assert.deepEqual(losses(), ["too_large"]);
});

test("the host's own check decides, and the first run is not asked about", () => {
  const asked = [];
  const check = (event, properties) => {
    asked.push([event, properties]);
    if (properties.a !== 1) throw new Error("a: expected 1");
  };
  assert.equal(door({ check }).capture("x", { a: 1 }).state, "aside");
  assert.deepEqual(door({ check }).capture("x"), { state: "lost", uuid: null, reason: "x: a: expected 1" });
  assert.deepEqual(asked, [["x", { a: 1 }], ["x", {}]]);
  assert.deepEqual(losses(), ["invalid"]);
});

for (const name of VARIABLES) {
  test(`off by ${name} touches nothing`, () => {
    process.env[name] = "1";
    assert.deepEqual(door().capture("x"), { state: "disabled", uuid: null, reason: name });
    assert.equal(everything(), false);
  });
}

test("off by the file, or by one that does not read, writes nothing", () => {
  identity({ enabled: false });
  assert.equal(door().capture("x").reason, "telemetry.json");
  identity({ more: 1 });
  assert.equal(door().capture("x").reason, "unreadable telemetry.json");
  assert.deepEqual(everything(), ["telemetry.json"]);
});

test("who says no while an event is on its way is obeyed", () => {
  identity();
  const check = () => identity({ enabled: false });
  const receipt = door({ check }).capture("x");
  assert.deepEqual(receipt, { state: "disabled", uuid: null, reason: "telemetry.json" });
  assert.deepEqual(fs.readdirSync(aside), []);
});

test("debug mode shows the event on stderr and stores nothing, also when off", () => {
  const shown = run('console.log(door.capture("x", { a: 1 }).state)', "pipe", { KTX_TELEMETRY_DEBUG: "1", CI: "1" });
  assert.equal(shown.stdout, "debug\n");
  const { event, distinct_id } = JSON.parse(shown.stderr.replace(/^\[telemetry\] /, ""));
  assert.deepEqual([event, distinct_id, everything()], ["x", "unknown", false]);
});

test("the first run is counted once: five keys, one notice, one event before all others; stdout stays silent", () => {
  const first = run('door.capture("x"); door.capture("y");');
  assert.equal(first.stdout, "");
  assert.match(first.stderr, /^ktx collects anonymous usage data .*\n$/);
  const file = path.join(home, "telemetry.json");
  const fields = JSON.parse(fs.readFileSync(file, "utf8"));
  assert.deepEqual(Object.keys(fields), ["installId", "enabled", "noticeShownAt", "noticeShownVersion", "createdAt"]);
  assert.equal(fs.statSync(file).mode & 0o777, 0o600);
  assert.deepEqual(events().map(({ event }) => event), ["install_first_run", "x", "y"]);
  assert.deepEqual([...new Set(events().map((event) => event.distinct_id))], [fields.installId]);
  assert.deepEqual([events()[0].uuid, fs.readdirSync(home).sort()], [fields.installId, ["spool", "telemetry.json"]]);
  assert.equal(run('door.capture("z")').stderr, "");
});

test("streams that are closed are no matter", () => {
  const closed = run('if (door.capture("x").state !== "aside") process.exit(1)', ["ignore", "ignore", "ignore"]);
  assert.equal(closed.status, 0);
  const code = `import { Telemetry } from ${JSON.stringify(MODULE)};
    const door = new Telemetry({ app: "ktx", version: "1", home: ${JSON.stringify(home)} });
    process.exit(door.capture("y").state === "aside" ? 0 : 1);`;
  const command = '"$0" --input-type=module --eval "$1" >&- 2>&-';
  const shell = spawnSync("sh", ["-c", command, process.execPath, code]);
  assert.equal(shell.status, 0);
});

const OBSTACLES = {
  "a file for spool": () => fs.writeFileSync(path.join(home, "spool"), ""),
  "a link for aside": () => { fs.mkdirSync(path.join(home, "spool")); fs.symlinkSync(os.tmpdir(), aside); },
  "a link for spool": () => fs.symlinkSync(os.tmpdir(), path.join(home, "spool")),
};
for (const [name, build] of Object.entries(OBSTACLES)) {
  test(`whatever the machine does, capture does not throw: ${name}`, () => {
    identity();
    build();
    process.env.KTX_TELEMETRY_STRICT = "1";
    const receipt = door().capture("x");
    assert.deepEqual([receipt.state, typeof receipt.reason], ["lost", "string"]);
    assert.deepEqual(fs.readdirSync(home).sort(), ["spool", "telemetry.json"]);
  });
}

test("a home that can't be minted in is off, quietly", () => {
  fs.writeFileSync(home, "");
  assert.equal(door().capture("x").reason, "home not usable");
  assert.equal(door({ home: path.join(home, "below") }).capture("x").reason, "home not usable");
  assert.equal(door({ home: "/proc/no/such" }).capture("x").reason, "home not usable");
});

test("where to deliver is left for a bare flusher, beside what a Python host left", () => {
  identity();
  const file = path.join(home, "spool", "destination.json");
  const left = () => JSON.parse(fs.readFileSync(file, "utf8"));
  door({ catalogue: "ktx" }).capture("x");
  assert.deepEqual(left(), { catalogue: "ktx", host: "https://us.i.posthog.com", project_key: "phc_test" });
  const before = { host: "https://eu.i.posthog.com", project_key: "phc_old", limits: { max_events: 5 } };
  fs.writeFileSync(file, JSON.stringify(before));
  door({ host: before.host, projectKey: undefined }).capture("x");
  assert.deepEqual(left(), before);
  door({ host: before.host }).capture("x");
  assert.deepEqual(left(), { ...before, project_key: "phc_test" });
  fs.writeFileSync(file, "[");
  door().capture("x");
  assert.equal(left().project_key, "phc_test");
});

test("the oldest go when nobody comes for them, each counted", () => {
  identity();
  fs.mkdirSync(aside, { recursive: true });
  for (const number of [0, 1, 2, 3]) fs.writeFileSync(path.join(aside, `000${number}-x.json`), "");
  const telemetry = door({ maxEvents: 3 });
  assert.equal(telemetry.capture("x").state, "aside");
  assert.deepEqual(names(".json").slice(0, -1), ["0002-x.json", "0003-x.json"]);
  for (let number = 0; number < 64; number++) telemetry.capture("x");
  assert.deepEqual([names(".json").length, losses()], [3, Array(66).fill("over_count")]);
});

test("a mistake in the options is said at once", () => {
  for (const app of ["", "../x", "a b", undefined]) assert.throws(() => door({ app }), TypeError);
  assert.throws(() => door({ projectKey: "phx_personal" }), TypeError);
});
