// Makes one replica set of the three members of compose.yaml, and its users.
//
// Runs at each `up`, by mongosh --nodb. Each step looks what is there, so this may be killed anywhere
// and run again; a member that is away, or catches up, holds nothing up once there is a set.

const fs = require("fs");

const MEMBERS = ["mongo1:27017", "mongo2:27017", "mongo3:27017"];
const PATIENCE_MS = 180_000;
const WAITS = "serverSelectionTimeoutMS=5000";
const DATABASE = process.env.MONGODB_DATABASE;

// As members log in to each other: whoever has the key may do anything, before there is a user, too,
// and where the administrator's password was lost.
const KEY = encodeURIComponent(secret("keyfile"));
const AS_MEMBER = `authSource=local&authMechanism=SCRAM-SHA-256&${WAITS}`;

function secret(name) {
  return fs.readFileSync(`/secrets/mongo/${name}`, "utf8").trim();
}

// What `attempt` answers once it answers something; what was in the way when the time is over. Its
// answer must not be returned as it comes: mongosh would await it outside of the `try`.
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

function helloOf(host) {
  try {
    const hello = connect(`mongodb://${host}/admin?directConnection=true&${WAITS}`).hello();
    return hello;
  } catch (error) {
    print(`${host}: ${error.message}`);
    return null;
  }
}

// By asking all of them first: a mongo1 that has lost its data must not begin a second set.
function ensureInitiated() {
  eventually("a set, or three members to make one of", () => {
    const hellos = MEMBERS.map(helloOf);
    if (hellos.some(hello => hello && hello.setName)) return true;
    if (hellos.some(hello => hello === null)) return false;
    print("initiating rs0 with mongo1");
    const mongo1 = connect(`mongodb://__system:${KEY}@${MEMBERS[0]}/admin?directConnection=true&${AS_MEMBER}`);
    mongo1.adminCommand({replSetInitiate: {_id: "rs0", members: [{_id: 0, host: MEMBERS[0]}]}});
    return true;
  });
}

function theSet() {
  return eventually("the set has a primary", () => {
    const set = connect(`mongodb://__system:${KEY}@${MEMBERS.join(",")}/admin?replicaSet=rs0&${AS_MEMBER}`);
    return set;
  });
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

function ensureMajority(admin) {
  eventually("a majority has caught up", () => {
    const {members} = admin.adminCommand({replSetGetStatus: 1});
    const well = members.filter(({stateStr}) => stateStr === "PRIMARY" || stateStr === "SECONDARY");
    return well.length * 2 > members.length;
  });
}

// With the password of its file, and at least this role: others that somebody granted stay.
function ensureUser(admin, user, role) {
  eventually(`the user ${user} is there`, () => {
    const pwd = secret(`${user}_password`);
    if (admin.getUser(user) === null) {
      admin.createUser({user, pwd, roles: [role]});
    } else {
      admin.updateUser(user, {pwd});
      admin.grantRolesToUser(user, [role]);
    }
    return true;
  });
}

ensureInitiated();
const admin = theSet();
MEMBERS.forEach(host => ensureMember(admin, host));
ensureMajority(admin);
ensureUser(admin, "admin", {role: "root", db: "admin"});
ensureUser(admin, "gateway", {role: "readWrite", db: DATABASE});
// mongo-role.js makes what the scheduler may do, and its user.
db = admin;
process.env.COUNCILOR_USER = "scheduler";
process.env.COUNCILOR_PASSWORD = secret("scheduler_password");
load("/scripts/mongo-role.js");
print("rs0 is there");
