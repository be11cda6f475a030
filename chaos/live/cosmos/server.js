"use strict";
/*
 * An imitation of Azure Cosmos DB for tests, on 127.0.0.1, in memory: @vercel/cosmosdb-server with the faults that
 * what it does wrong put right, and trouble on demand.
 *
 *   node server.js [PORT [FILE]]   PORT 0 (the default) takes a free one; "ready PORT" is printed once it listens.
 *                                  FILE: a line is added for each event of a job at the moment when it is stored.
 *
 * It ends when its standard input does, so that it never outlives whoever started it.
 *
 * POST /__faults   [fault, …] replaces the list; each request meets the first fault that matches and is not used up:
 *   {"match": "PUT .+j1$",         a regular expression over "METHOD url"; a create, a batch and a query are POSTs
 *    "count": 1,                   how many requests it is for
 *    "chance": 1,                  how likely a request meets it that could
 *    "action": "status" | "hang" | "drop" | "apply_then_drop",
 *    "status": 503,                with "status": the HTTP status that is answered; nothing is applied
 *    "headers": {…}}               with "status": headers of that answer, as x-ms-retry-after-ms
 * GET  /__faults   the same list, with what is left of each count.
 * GET  /__requests {"GET fleet_jobs": 12, …}: how many requests came since the last time this was asked for, by method
 *                  and container.
 * POST /__account  {"consistency": "Session", "writeRegions": 2} changes what the account says of itself.
 *
 * Batches and the scope of queries are ours: they prove the client's wiring, not Azure.
 */

const LIB = "@vercel/cosmosdb-server/lib";
const PARTITION_HEADER = "x-ms-documentdb-partitionkey";
const IDLE_CONNECTION_MS = 60_000; // longer than a client keeps one, so that a request never meets a closing one

const fs = require("node:fs");
const readBody = require(`${LIB}/json`).default;
const operations = require(`${LIB}/handler/_document-operations`);
const readItems = require(`${LIB}/handler/_read-items`).default;

let requests = {};
const account = { consistency: "Strong", writeRegions: 1 };
let faults = [];

/** Upstream copies the result once per row and once per field: quadratic in the length of the list. */
function mendQuadraticQueries() {
  const helpers = require("@zeit/cosmosdb-query/lib/helpers");
  const strip = value => {
    if (Array.isArray(value)) return value.filter(one => one !== undefined).map(strip);
    if (value === null || typeof value !== "object") return value;
    const fields = Object.entries(value).filter(([, one]) => one !== undefined);
    return Object.fromEntries(fields.map(([name, one]) => [name, strip(one)]));
  };
  helpers.stripUndefined = strip;
}

/** Whatever way a document takes, it is stored by these two. Times are of the monotonic clock, which processes share. */
function tellOfEvents(path) {
  const file = fs.openSync(path, "a");
  const told = new Set();
  const tell = event => {
    const key = `${event.jobId} ${event.seq} ${event.opId}`;
    if (told.has(key)) return;
    told.add(key);
    const { productId, jobId, seq, type, leaseEpoch } = event;
    const at = Number(process.hrtime.bigint() / 1000n) / 1e6;
    fs.writeSync(file, JSON.stringify({ at, productId, jobId, seq, type, leaseEpoch }) + "\n");
  };
  for (const name of ["createOperation", "replaceOperation"]) {
    const store = operations[name];
    operations[name] = (container, input) => {
      const result = store(container, input);
      const { resourceBody: doc } = input;
      if (result.statusCode < 300 && doc.seq && doc.opId) tell(doc);
      if (result.statusCode < 300 && doc.stage && Array.isArray(doc.outbox)) doc.outbox.forEach(tell);
      return result;
    };
  }
}

/** Handlers are looked up once, when the routes are loaded: a replacement has to stand before that. */
function replaceHandler(name, handler) {
  require(`${LIB}/handler/${name}`).default = handler;
}

function partitionOf(req) {
  const header = req.headers[PARTITION_HEADER];
  return header ? JSON.parse(header)[0] : undefined;
}

/** 404 as Azure says it: 1003 where the container itself is missing, which is not the absence of an item. */
function notFound(res, containerIsMissing) {
  res.statusCode = 404;
  res.setHeader("x-ms-substatus", containerIsMissing ? "1003" : "0");
  return { code: "NotFound", message: containerIsMissing ? "Owner resource does not exist" : "no such item" };
}

/** Upstream looks into the missing document and fails with 500. */
function readDocument(accounts, req, res, { dbId, collId, docId }) {
  const container = accounts.database(dbId).collection(collId);
  if (!container.read()) return notFound(res, true);
  const found = operations.readOperation(container, { partitionKey: req.headers[PARTITION_HEADER], id: docId });
  if (found.statusCode === 404) return notFound(res, false);
  res.statusCode = found.statusCode;
  return found.body;
}

/** The documents of one partition, as an object that queries like the whole. */
function inPartition(documents, partition) {
  if (partition === undefined) return documents;
  const rows = [...documents._data].filter(([, item]) => documents._getPartition(item.read()) === partition);
  return Object.create(documents, { _data: { value: new Map(rows) } });
}

/** Upstream ignores the partition key of a query, and wants it spelled in the SQL instead. */
function queryDocuments(accounts, req, res, { dbId, collId }) {
  return readItems(req, res, "Documents", async page => {
    const body = await readBody(req);
    const container = accounts.database(dbId).collection(collId);
    if (!container.read()) return notFound(res, true);
    try {
      return inPartition(container.documents, partitionOf(req)).query(body, page);
    } catch (error) {
      if (!error.badRequest) throw error;
      res.statusCode = 400;
      return { code: "BadRequest", message: error.message };
    }
  });
}

/** The status that one operation of a batch would fail with, undefined where it would succeed. */
function whyNot(container, partition, operation) {
  const current = container.document(operation.id, partition).read();
  if (operation.operationType === "Create") return current ? 409 : undefined;
  if (!current) return 404;
  return operation.ifMatch && operation.ifMatch !== current._etag ? 412 : undefined;
}

function applyOperation(container, partition, operation) {
  const { operationType, resourceBody, id } = operation;
  const partitionKey = JSON.stringify([partition]);
  const apply = {
    Create: () => operations.createOperation(container, { resourceBody }),
    Replace: () => operations.replaceOperation(container, { resourceBody, partitionKey }),
    Delete: () => operations.deleteOperation(container, { id, partitionKey }),
  }[operationType];
  const { statusCode, body } = apply();
  return { statusCode, requestCharge: 1, eTag: body && body._etag, resourceBody: body };
}

/** What the imitation refuses of a batch, so that what it accepts can't fail halfway. */
function misuse(container, partition, batch) {
  if (batch.length > 100) return "a batch has at most 100 operations";
  if (new Set(batch.map(one => one.id)).size < batch.length) return "an id comes twice in one batch";
  for (const { operationType, resourceBody } of batch) {
    if (!["Create", "Replace", "Delete"].includes(operationType)) return `no ${operationType} in a batch here`;
    if (resourceBody && container.documents._getPartition(resourceBody) !== partition)
      return "an operation is of another partition than the batch";
  }
  return undefined;
}

/** All or nothing, each operation under its own etag: all are checked, then all are applied, in one turn of node. */
async function batchDocuments(accounts, req, res, { dbId, collId }) {
  const container = accounts.database(dbId).collection(collId);
  if (!container.read()) return notFound(res, true);
  const partition = partitionOf(req);
  const batch = (await readBody(req)).map(one => ({ ...one, id: one.id || one.resourceBody.id }));
  const wrong = misuse(container, partition, batch);
  if (wrong) {
    res.statusCode = 400;
    return { code: "BadRequest", message: wrong };
  }
  const refusals = batch.map(one => whyNot(container, partition, one));
  const first = refusals.findIndex(status => status !== undefined);
  if (first < 0) return batch.map(one => applyOperation(container, partition, one));
  res.statusCode = 207;
  return batch.map((_, index) => ({ statusCode: index === first ? refusals[first] : 424, requestCharge: 1 }));
}

/** Upstream drops a container's documents together with its old definition. */
const replaceDefinition = require(`${LIB}/handler/replace-collection`).default;
async function replaceContainer(accounts, req, res, params) {
  const container = () => accounts.database(params.dbId).collection(params.collId);
  const { documents } = container();
  const body = await replaceDefinition(accounts, req, res, params);
  container().documents = documents;
  return body;
}

/** Upstream always says Session, and one region. */
function readAccount(accounts) {
  const told = accounts.read();
  const regions = Array.from({ length: account.writeRegions }, (_, number) => ({
    ...told.writableLocations[0],
    name: `Region ${number + 1}`,
  }));
  return {
    ...told,
    writableLocations: regions,
    enableMultipleWriteLocations: regions.length > 1,
    userConsistencyPolicy: { defaultConsistencyLevel: account.consistency },
  };
}

function answer(res, status, body, headers = {}) {
  res.writeHead(status, { "content-type": "application/json", "x-ms-request-charge": "1", ...headers });
  res.end(JSON.stringify(body));
}

/** The tests' own door. True where the request came to it. */
function isControl(req, res) {
  if (req.url === "/__faults" && req.method === "GET") {
    answer(res, 200, faults);
    return true;
  }
  if (req.url === "/__requests") {
    answer(res, 200, requests);
    requests = {};
    return true;
  }
  if (req.url !== "/__faults" && req.url !== "/__account") return false;
  readBody(req).then(
    body => {
      if (req.url === "/__faults") faults = body;
      else Object.assign(account, body);
      answer(res, 200, {});
    },
    error => answer(res, 400, { message: error.message }),
  );
  return true;
}

function count(req) {
  const query = req.headers["x-ms-documentdb-isquery"] ? " query" : "";
  const container = (/\/colls\/([^/]+)/.exec(req.url) || [])[1];
  const name = `${req.method} ${container}${query}`;
  requests[name] = (requests[name] || 0) + 1;
}

function nextFault(req) {
  const request = `${req.method} ${req.url}`;
  const meets = one => one.count > 0 && new RegExp(one.match).test(request) && Math.random() < (one.chance ?? 1);
  const fault = faults.find(meets);
  if (fault) fault.count -= 1;
  return fault;
}

/** Brings the trouble about. True where the request must not reach the datastore any more. */
function makeTrouble(fault, req, res) {
  switch (fault.action) {
    case "status":
      req.resume();
      answer(res, fault.status, { code: "Injected", message: "a fault of the test" }, fault.headers);
      return true;
    case "hang":
      req.resume();
      return true;
    case "drop":
      req.socket.destroy();
      return true;
    case "apply_then_drop":
      res.end = () => req.socket.destroy();
      return false;
    default:
      answer(res, 400, { message: `no such action: ${fault.action}` });
      return true;
  }
}

function start(port, path) {
  mendQuadraticQueries();
  replaceHandler("read-document", readDocument);
  replaceHandler("query-documents", queryDocuments);
  replaceHandler("batch-documents", batchDocuments);
  replaceHandler("replace-collection", replaceContainer);
  replaceHandler("read-meta", readAccount);

  if (path) tellOfEvents(path);

  const { createHttpServer } = require(LIB);
  const server = createHttpServer({ keepAlive: true, keepAliveTimeout: IDLE_CONNECTION_MS });
  const [serve] = server.listeners("request");
  server.removeAllListeners("request");
  server.on("request", (req, res) => {
    if (isControl(req, res)) return;
    count(req);
    const fault = nextFault(req);
    if (fault && makeTrouble(fault, req, res)) return;
    serve(req, res);
  });
  server.on("error", error => {
    console.error(error.message);
    process.exit(1);
  });
  server.listen(port, "127.0.0.1", () => console.log(`ready ${server.address().port}`));
  process.stdin.on("end", () => process.exit(0)).resume();
}

start(Number(process.argv[2] || 0), process.argv[3]);
