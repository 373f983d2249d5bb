"""How text becomes prompts: prompt templates, chat templates, and control tokens."""
