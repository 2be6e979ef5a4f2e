// tus-js-client against the service: `node tus.mjs TASK ENDPOINT FILE` prints the URL of the upload.
import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { FileUrlStorage, Upload } from "tus-js-client";

const [task, endpoint, path] = process.argv.slice(2);
const options = {
  endpoint,
  metadata: { filename: "long.txt", filetype: "text/plain" },
  retryDelays: [0, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000],
  urlStorage: new FileUrlStorage(`${path}.urls`),
};

function upload(more = {}) {
  let made;
  const done = new Promise((resolve, reject) => {
    const all = { ...options, ...more, onSuccess: resolve, onError: reject };
    made = new Upload(createReadStream(path), all);
  });
  return { made, done };
}

// Stops an upload in its midst, and gives it back.
async function abortedInTheMidst(terminate) {
  const { promise: midst, resolve } = deferred();
  const { made } = upload({ onProgress: (sent, total) => sent > total / 3 && resolve() });
  made.start();
  await midst;
  await made.abort(terminate);
  return made;
}

function deferred() {
  let resolve;
  return { promise: new Promise((done) => (resolve = done)), resolve };
}

const tasks = {
  async whole() {
    const { made, done } = upload();
    made.start();
    await done;
    return made.url;
  },

  // Whoever comes back, in another process say, finds the URL in the storage of the client.
  async resume() {
    const { url } = await abortedInTheMidst(false);
    const offsets = [];
    const { made, done } = upload({
      onAfterResponse: (request, response) => {
        offsets.push([request.getMethod(), Number(response.getHeader("Upload-Offset"))]);
      },
    });
    const [previous] = await made.findPreviousUploads();
    made.resumeFromPreviousUpload(previous);
    made.start();
    await done;
    assert.equal(made.url, url);
    const [method, offset] = offsets[0];
    assert.equal(method, "HEAD");
    assert.ok(offset > 0, "what was sent before counts");
    return url;
  },

  async terminate() {
    const { url } = await abortedInTheMidst(true);
    const answer = await fetch(url, { method: "HEAD", headers: { "Tus-Resumable": "1.0.0" } });
    assert.equal(answer.status, 404);
    return url;
  },

  // In chunks, the first of them with the creation, by a client that cannot send PATCH.
  async chunks() {
    const { made, done } = upload({
      chunkSize: 5_000_000,
      uploadDataDuringCreation: true,
      overridePatchMethod: true,
    });
    made.start();
    await done;
    return made.url;
  },
};

console.log(await tasks[task]());
