// Makes one replica set of the three members of compose.yaml, and its users.
//
// Runs in the network of mongo1 at each `up`, by mongosh --nodb. It begins with mongo1 alone, which
// therefore is primary and lets somebody at its own machine make the first user; then the others
// are added. Each step looks what is there, so it may be killed anywhere and run again.

const fs = require("fs");

const MEMBERS = ["mongo1:27017", "mongo2:27017", "mongo3:27017"];
const HERE = "127.0.0.1:27017";
const PATIENCE_MS = 180_000;
const ADMIN_URL = urlIn("mongo/admin_url");

function urlIn(name) {
  return fs.readFileSync(`/secrets/${name}`, "utf8").trim();
}

function passwordIn(url) {
  return url.match(/\/\/[^:]+:([^@]+)@/)[1];
}

// What `attempt` answers once it answers something; what was in the way when the time is over.
function eventually(what, attempt) {
  const end = Date.now() + PATIENCE_MS;
  let trouble = "not yet";
  while (Date.now() < end) {
    try {
      const answer = attempt();
      if (answer) return answer;
    } catch (error) {
      trouble = error.message;
    }
    sleep(250);
  }
  throw new Error(`${what}: ${trouble}`);
}

function strangerAt(host) {
  return connect(`mongodb://${host}/admin?directConnection=true&serverSelectionTimeoutMS=5000`);
}

// Asks all of them first: a mongo1 that has lost its data must not begin a second set.
function ensureInitiated() {
  const hellos = MEMBERS.map(host => eventually(`${host} answers`, () => strangerAt(host).hello()));
  if (hellos.some(hello => hello.setName)) return;
  print("initiating rs0 with mongo1");
  const config = {_id: "rs0", members: [{_id: 0, host: MEMBERS[0]}]};
  strangerAt(HERE).adminCommand({replSetInitiate: config});
}

function administrator() {
  return eventually("the administrator may log in", () => {
    try {
      // Not returned at once: mongosh would await it outside of this `try`.
      const set = connect(`${ADMIN_URL}&serverSelectionTimeoutMS=5000`);
      return set;
    } catch (error) {
      if (!/Authentication failed/.test(error.message)) throw error;
      print("creating the administrator");
      const pwd = passwordIn(ADMIN_URL);
      strangerAt(HERE).createUser({user: "admin", pwd, roles: ["root"]});
      return null;
    }
  }).getSiblingDB("admin");
}

// One at a time: a majority must know of each before the next.
function ensureMember(admin, host) {
  eventually(`${host} is a member`, () => {
    const {config} = admin.adminCommand({replSetGetConfig: 1});
    if (config.members.some(member => member.host === host)) return true;
    print(`adding ${host}`);
    const _id = 1 + Math.max(...config.members.map(member => member._id));
    const members = [...config.members, {_id, host}];
    admin.adminCommand({replSetReconfig: {...config, members, version: config.version + 1}});
    return false;
  });
}

// With the password of its file, if that was lost and made anew, too.
function ensureUser(admin, user, url, roles) {
  const known = {pwd: passwordIn(url), roles};
  if (admin.getUser(user)) admin.updateUser(user, known);
  else admin.createUser({user, ...known});
}

ensureInitiated();
const admin = administrator();
MEMBERS.forEach(host => ensureMember(admin, host));
eventually("every member has caught up", () => {
  const states = admin.adminCommand({replSetGetStatus: 1}).members.map(member => member.stateStr);
  return states.every(state => state === "PRIMARY" || state === "SECONDARY");
});
// The gateway and other writers read and write what is there, and make no users.
ensureUser(admin, "gateway", urlIn("mongo/gateway_url"), [{role: "readWrite", db: "conductor_state"}]);
// mongo-role.js makes what the scheduler may do, and its user.
db = admin;
process.env.COUNCILOR_USER = "scheduler";
process.env.COUNCILOR_PASSWORD = passwordIn(urlIn("scheduler/mongodb_url"));
load("/scripts/mongo-role.js");
print("rs0 is there");
