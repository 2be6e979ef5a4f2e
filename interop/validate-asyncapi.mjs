// Prints what AsyncAPI's own parser finds in a document from standard input; exits 1 if it finds anything.
import { text } from "node:stream/consumers";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(await text(process.stdin));
for (const { path, message } of diagnostics) console.log(`${path.join(".")}: ${message}`);
console.log(`${document?.channels().all().length ?? 0} channels`);
process.exitCode = document && diagnostics.length === 0 ? 0 : 1;
