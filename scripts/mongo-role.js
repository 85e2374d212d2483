// Makes the role of councilor-scheduler, and its user, as an administrator: again and again, if you like.
//
//   mongosh "mongodb://admin@host/?authSource=admin" scripts/mongo-role.js
//
// From the environment: MONGODB_DATABASE and SCHEDULER_..._COLLECTION as the service has them;
// COUNCILOR_USER and COUNCILOR_PASSWORD, where the user is to be made, too (or to get this password);
// COUNCILOR_EVENTS=1, where /events is to tell of notifications: see EVENTS below.
//
// Role and user belong to that database, not to `admin`: so the role can never hold a right on another
// one, whoever may manage users there may run this, and the user's URL ends in ?authSource=DATABASE.

// What the service does with each of its collections, and nothing else. Its tests run with this, and
// fail where an action is missing, or is not needed.
const ACTIONS = {
  "agents": ["changeStream", "find", "update"],
  "executions": [
    "changeStream", "collMod", "createIndex", "dropIndex", "find", "insert", "listIndexes", "remove", "update"
  ],
  "jobs": ["find", "insert", "remove", "update"],
  "replicas": ["find", "insert", "remove", "update"],
  "notifications": ["collMod", "createIndex", "find", "insert", "listIndexes", "update"]
};
// A stream of two collections is one of the whole database, and MongoDB grants that together with `find` on
// everything in it. Without it /events leaves out notifications, and nothing else.
const EVENTS = ["changeStream", "find"];

const name = process.env.MONGODB_DATABASE || "conductor_state";
const collections = {
  agents: process.env.SCHEDULER_AGENTS_COLLECTION || "agents",
  executions: process.env.SCHEDULER_EXECUTIONS_COLLECTION || "councilor_executions",
  jobs: process.env.SCHEDULER_JOBS_COLLECTION || "apscheduler_jobs",
  replicas: "scheduler_replicas",
  notifications: "scheduler_notifications",
};
const database = db.getSiblingDB(name);

function haveRole(role, privileges) {
  const verb = database.getRole(role) === null ? "createRole" : "updateRole";
  const answer = database.runCommand({[verb]: role, privileges, roles: []});
  if (!answer.ok) throw new Error(`${verb} ${role}: ${answer.errmsg}`);
  print(`${verb} ${name}.${role}`);
}

function haveUser(user, pwd, roles) {
  const verb = database.getUser(user) === null ? "createUser" : "updateUser";
  const answer = database.runCommand({[verb]: user, pwd, roles});
  if (!answer.ok) throw new Error(`${verb} ${user}: ${answer.errmsg}`);
  print(`${verb} ${name}.${user}: ${roles.join(", ")}`);
}

const privileges = Object.entries(ACTIONS).map(([part, actions]) => ({
  resource: {db: name, collection: collections[part]},
  actions,
}));
haveRole("councilorScheduler", privileges);
haveRole("councilorSchedulerEvents", [{resource: {db: name, collection: ""}, actions: EVENTS}]);

if (process.env.COUNCILOR_USER) {
  if (!process.env.COUNCILOR_PASSWORD) throw new Error("COUNCILOR_USER needs COUNCILOR_PASSWORD");
  const events = process.env.COUNCILOR_EVENTS === "1" ? ["councilorSchedulerEvents"] : [];
  haveUser(process.env.COUNCILOR_USER, process.env.COUNCILOR_PASSWORD, ["councilorScheduler", ...events]);
}
