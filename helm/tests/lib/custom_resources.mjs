// Checks custom resources (standard input: a JSON list) by the validators of the packages that KEDA's and the Prometheus
// Operator's definitions are published in. They let unknown keys pass, so each object is watched while it is validated:
// a key that no validator ever asks for is one that the definition does not have. Prints a JSON list of faults.
// The first argument is the folder where the packages are installed.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const packages = {
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
};

async function load(path) {
  const name = path.split("/").slice(0, 2).join("/");
  return import(pathToFileURL(`${process.argv[2]}/node_modules/${name}/${path.slice(name.length + 1)}/index.js`));
}

function watched(value, path, asked) {
  if (value === null || typeof value !== "object") return value;
  return new Proxy(value, {
    get(target, key) {
      if (typeof key === "string") asked.add(`${path}/${key}`);
      return watched(target[key], `${path}/${String(key)}`, asked);
    },
    ownKeys(target) {
      for (const key of Object.keys(target)) asked.add(`${path}/${key}`);
      return Reflect.ownKeys(target);
    },
  });
}

function unknown(value, path, asked, faults) {
  if (value === null || typeof value !== "object") return;
  for (const [key, below] of Object.entries(value)) {
    const here = `${path}/${key}`;
    if (!Array.isArray(value) && !asked.has(here)) faults.push(`${here}: is not part of the definition`);
    else unknown(below, here, asked, faults);
  }
}

const faults = [];
for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const name = `${object.kind} ${object.metadata.name}`;
  const path = packages[object.apiVersion];
  const Model = path && (await load(path))[object.kind];
  if (!Model) {
    faults.push(`${name}: no definition of ${object.apiVersion} ${object.kind}`);
    continue;
  }
  const asked = new Set(["/status"]);
  try {
    Model.prototype.validate.call(watched(object, "", asked));
  } catch (error) {
    faults.push(`${name}: ${error.message}`);
  }
  const strange = [];
  unknown(object, "", asked, strange);
  faults.push(...strange.map((fault) => `${name}: ${fault}`));
}
console.log(JSON.stringify(faults));
