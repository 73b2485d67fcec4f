"""ZenML pipelines; each reads as a list of steps."""

from pathlib import Path

from zenml.utils.source_utils import set_custom_source_root

# ZenML looks for steps beside the script that was started, which is the installed command.
set_custom_source_root(str(Path(__file__).parent.parent))
