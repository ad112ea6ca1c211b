/**
 * Judge examples by ajv and by zod: `node judge.mjs FOLDER SCHEMA`, FOLDER that of the installed packages.
 *
 * Each line of stdin is `[event, properties]`; each line of stdout its two verdicts, as in `[true,false]`. The last line
 * of stdout is what zod itself makes of its schemas in JSON Schema. A number that is no JSON comes as {"$number": "NaN"}.
 */
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { schemas } from "./events.mjs";

const [folder, schema] = process.argv.slice(2);
const require = createRequire(path.join(folder, "package.json"));
const { Ajv2020 } = require("ajv/dist/2020");
const z = require("zod");

const ajv = new Ajv2020({ strict: true, keywords: ["x-ktx-common-fields", "x-ktx-catalog"] });
ajv.addSchema(JSON.parse(fs.readFileSync(schema, "utf8")), "events");
const zod = schemas(z);
const revive = (_key, value) => (value !== null && typeof value === "object" && "$number" in value ? Number(value.$number) : value);

for (const line of fs.readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  const [event, properties] = JSON.parse(line, revive);
  const verdicts = [ajv.getSchema(`events#/$defs/${event}`)(properties), zod[event].safeParse(properties).success];
  process.stdout.write(`${JSON.stringify(verdicts)}\n`);
}
const written = Object.entries(zod).map(([event, one]) => [event, z.toJSONSchema(one)]);
process.stdout.write(`${JSON.stringify(Object.fromEntries(written))}\n`);
