"""Request bodies: read with a size limit, parsed as JSON and validated against a model."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from cache_pipeline.simulator.errors import ApiError, bad_request

Model = TypeVar("Model", bound=BaseModel)


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body.

    Raises:
        ApiError: 413 if it is longer than `limit` bytes; 400 if the client disconnected.
    """
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit:
                message = f"The request is over the size limit. Maximum bytes: {limit}"
                raise ApiError(413, "request.entity.too.large", message)
    except ClientDisconnect:
        # The client never sees this response, but a killed client must not count as a server failure.
        raise bad_request("The request ended before its body did") from None
    return bytes(body)


async def read_json(request: Request, model: type[Model], limit: int) -> Model:
    """Return the JSON body as `model`.

    Raises:
        ApiError: 413 if it is too long, 415 if its content type is not JSON, 400 if it does not match the model; the error
            names the first mistake.
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
