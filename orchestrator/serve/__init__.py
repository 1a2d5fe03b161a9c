"""An OpenAI-compatible server of adapters: `orthoplex serve`, and a Ray Serve application."""
