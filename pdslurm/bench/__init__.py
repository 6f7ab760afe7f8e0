"""A point's arguments in; its requests sent, and what came back out. Runs in the engine's environment and alone imports vLLM."""
