"""Health and models, under the common names and the Open Inference Protocol's."""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, HTTPException, Request, Response

from app import metrics
from app.models import Network
from app.pipeline import Pipeline
from app.routes import json_response, problems

router = APIRouter()
Answer = TypeVar("Answer", bound=Callable[..., Any])

UNKNOWN_MODEL = problems({404: "No such model"})
DATATYPES = {"uint8": "UINT8", "float32": "FP32", "float16": "FP16"}


def probe(path: str, **documented: Any) -> Callable[[Answer], Answer]:
    """Answers GET and HEAD at `path`: load balancers like to ask with HEAD."""

    def register(answer: Answer) -> Answer:
        router.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)(answer)
        router.get(path, **documented)(answer)  # for the OpenAPI document, which wants one method a name
        return answer

    return register


@probe("/livez")
@probe("/v2/health/live")
async def live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@probe("/readyz", responses={503: {"description": "Not ready"}})
@probe("/healthz", responses={503: {"description": "Not ready"}})
@probe("/v2/health/ready", responses={503: {"description": "Not ready"}})
async def ready(request: Request) -> Response:
    """Whether every network is loaded, warmed and working, and on which execution provider each really runs."""
    pipeline: Pipeline = request.app.state.pipeline
    await pipeline.probe()
    networks = {task: {"provider": network.engine.provider} for task, network in pipeline.networks.items()}
    content = {
        "ready": pipeline.ready,
        "draining": pipeline.draining,
        "provider_asked_for": request.app.state.settings.provider,
        "models": networks,
    }
    return json_response(content, 200 if pipeline.ready else 503)


@router.get("/models")
async def models(request: Request) -> dict[str, list[dict[str, Any]]]:
    """The model card of each network, with the execution provider that runs it."""
    pipeline: Pipeline = request.app.state.pipeline
    return {"models": [_card(task, network) for task, network in pipeline.networks.items()]}


@router.get("/v2")
async def server() -> dict[str, Any]:
    """Name and version of the server (Open Inference Protocol)."""
    return {"name": "okdhp", "version": metrics.package_version(), "extensions": []}


@router.get("/v2/models/{name}", responses=UNKNOWN_MODEL)
async def model(request: Request, name: str) -> dict[str, Any]:
    """Inputs and outputs of one network, `pose` or `detector` (Open Inference Protocol)."""
    network = _network(request, name)
    return {
        "name": name,
        "versions": [network.version],
        "platform": "onnxruntime_onnx",
        "inputs": [_tensor(tensor) for tensor in network.engine.inputs],
        "outputs": [_tensor(tensor) for tensor in network.engine.outputs],
    }


@router.get("/v2/models/{name}/ready", responses={**UNKNOWN_MODEL, 503: {"description": "Not ready"}})
async def model_ready(request: Request, name: str) -> Response:
    """Whether one network is ready (Open Inference Protocol)."""
    _network(request, name)
    pipeline: Pipeline = request.app.state.pipeline
    await pipeline.probe()
    is_ready = pipeline.network_ready(name)
    return json_response({"name": name, "ready": is_ready}, 200 if is_ready else 503)


def _network(request: Request, name: str) -> Network:
    pipeline: Pipeline = request.app.state.pipeline
    if name not in pipeline.networks:
        raise HTTPException(404, f"there is no model of this name; there are {', '.join(pipeline.networks)}")
    return pipeline.networks[name]


def _card(task: str, network: Network) -> dict[str, Any]:
    width, height = network.size_wh
    found = {"name": network.name, "version": network.version, "task": task, "provider": network.engine.provider}
    return {**network.card, **found, "input": {**network.card.get("input", {}), "height": height, "width": width}}


def _tensor(tensor: Any) -> dict[str, Any]:
    shape = [-1 if side is None else side for side in tensor.shape]
    return {"name": tensor.name, "datatype": DATATYPES.get(tensor.dtype, tensor.dtype), "shape": shape}
