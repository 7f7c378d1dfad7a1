"""Reading request bodies: bounded in size, JSON, checked against a model."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from cache_pipeline.simulator.errors import ApiError, bad_request

Model = TypeVar("Model", bound=BaseModel)


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body.

    Raises:
        ApiError: 413, it is longer than `limit` bytes; 400, the client went away.
    """
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit:
                message = f"The request is over the size limit. Maximum bytes: {limit}"
                raise ApiError(413, "request.entity.too.large", message)
    except ClientDisconnect:
        # Nobody hears this; but a client that was killed is no failure of the server.
        raise bad_request("The request ended before its body did") from None
    return bytes(body)


async def read_json(request: Request, model: type[Model], limit: int) -> Model:
    """Return the JSON body as `model`.

    Raises:
        ApiError: 413 too long, 415 not JSON by its content type, 400 not as the model wants it; the first fault is named.
    """
    body = await read_body(request, limit)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        message = f"Unsupported media type '{content_type}'. Supported media types: application/json"
        raise ApiError(415, "unsupported.media.type", message)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise bad_request(f"{where}: {first['msg']}") from None
