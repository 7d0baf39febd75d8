"""Names of the files of a Hugging Face directory of a model. Torch-free."""

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
