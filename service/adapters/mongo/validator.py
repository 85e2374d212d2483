"""Lets MongoDB itself check what writers write to `agents`."""

from collections.abc import Mapping
from typing import Any

from service.adapters.mongo.client import Client, translated
from service.ports import ServiceError


class OtherValidator(ServiceError):
    """The collection has a validator of somebody else's, which is left alone."""


async def install(
    client: Client, database: str, collection: str, validator: Mapping[str, Any], *, strict: bool
) -> int:
    """Have documents checked as they are written; answers how many are there that would not do.

    Writes that do not satisfy it are told of in the server's log or, with `strict`, refused; but
    documents that are there already may be changed as before, or nobody could pause them. Raises
    OtherValidator, Unavailable, Misconfigured.
    """
    agents = client[database]
    options: dict[str, Any] = {
        "validator": validator,
        "validationLevel": "moderate",
        "validationAction": "error" if strict else "warn",
    }
    with translated():
        found = await agents.command("listCollections", filter={"name": collection})
        there = found["cursor"]["firstBatch"]
        if not there:
            await agents.create_collection(collection, **options)
            return 0
        _require_ours(there[0].get("options", {}).get("validator"), validator, collection)
        await agents.command({"collMod": collection, **options})
        return await agents[collection].count_documents({"$nor": [validator]})


def _require_ours(there: Any, ours: Mapping[str, Any], collection: str) -> None:
    if not there or _title(there) == _title(ours):
        return
    raise OtherValidator(
        f"{collection} has a validator already, which is left alone: combine the two by hand "
        '({$and: [yours, what "councilor-scheduler schema" prints]}), or remove it first'
    )


def _title(validator: Mapping[str, Any]) -> Any:
    schema = validator.get("$jsonSchema")
    return schema.get("title") if isinstance(schema, Mapping) else None
