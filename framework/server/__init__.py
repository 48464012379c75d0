"""The server: models behind OpenAI's routes, a chat page and metrics. Needs the extra `serve` (FastAPI and uvicorn)."""
