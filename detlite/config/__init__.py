"""From layers of YAML and a command line to one frozen tree of constructor calls."""

from detlite.config.config import Config
from detlite.config.load import load_config, load_config_text, override

__all__ = ["Config", "load_config", "load_config_text", "override"]
