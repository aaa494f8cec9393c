"""WebSocket /stream."""

from fastapi import APIRouter

router = APIRouter()
