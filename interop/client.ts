// A small program against the service. `openapi.ts` is made from /openapi.json by openapi-typescript: what is
// wrong here does not compile. Each `@ts-expect-error` is a mistake that the compiler must find.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./openapi.js";

type Problem = components["schemas"]["Problem"];

const client = createClient<paths>({ baseUrl: process.argv[2] ?? "http://127.0.0.1:8000" });

const page = await client.GET("/items/", { params: { query: { q: "tea", limit: 5 } } });
assert.deepEqual(page.data, { q: "tea", skip: 0, limit: 5 });

// @ts-expect-error a limit is a number
client.GET.bind(client, "/items/", { params: { query: { limit: "five" } } });
// @ts-expect-error there is no such path
client.GET.bind(client, "/nothing/");

const created = await client.POST("/users", {
  body: { name: "grace hopper", email: "grace.hopper@example.com", age: 45 },
});
assert.equal(created.response.status, 201);
const id: number = created.data!.id;
const read = await client.GET("/users/{user_id}", { params: { path: { user_id: id } } });
assert.equal(read.data?.name, "Grace Hopper");
// @ts-expect-error an age is never answered
assert.equal(read.data?.age, undefined);

const refused = await client.POST("/users", { body: { name: "grace", email: "not an address", age: 12 } });
const problem: Problem = refused.error!;
assert.equal(problem.status, 422);
assert.ok(problem.errors && problem.errors.length >= 2);
assert.ok(problem.request_id);

const account = { username: "grace", password: "correct horse battery staple" };
await client.POST("/security/oauth2/accounts", { body: account });
const form = { grant_type: "password", scope: "me", ...account };
const login = await client.POST("/security/oauth2/token", {
  body: form,
  bodySerializer: () => new URLSearchParams(form),
  headers: { "Content-Type": "application/x-www-form-urlencoded" },
});
const headers = { Authorization: `Bearer ${login.data!.access_token}` };
const me = await client.GET("/security/oauth2/me", { headers });
assert.equal(me.data?.username, "grace");
assert.deepEqual(me.data.scopes, ["me"]);
const nobody = await client.GET("/security/oauth2/me");
assert.equal(nobody.error?.status, 401);

console.log("the client is served as the document says");
