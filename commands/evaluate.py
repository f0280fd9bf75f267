"""Evaluates the newest weights of a run.

mlr evaluate RUN --episodes 100 --video
mlr evaluate RUN --agent-steps 12500       # weights of a budget that the run has passed
"""

from pathlib import Path

from harness.command_line import Options, at_least, refusing
from harness.config import ConfigError
from harness.errors import NotFinite
from harness.exit_codes import DONE
from harness.run_folder import RunFolder
from recipes import load_config, load_recipe


@refusing(ConfigError, NotFinite, OSError)
def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--agent-steps", type=int, help="evaluate the weights of this agent step, not the newest")
    parser.add_argument("--episodes", type=at_least(1), help="as many as after training, if not given")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes' starts and of what exploration there is")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--video", action="store_true", help="record the first episode")
    parser.add_argument("--csv", type=Path, help="write one row per episode to this file")
    parser.add_argument("--workers", type=int, help="processes over which the environments are spread")
    options = parser.parse_args(arguments)
    config = load_config(options.run)
    RunFolder(options.run).saved_weights(options.agent_steps)  # refused before torch is imported
    recipe = load_recipe(config)
    from harness.run_evaluation import evaluate_run

    evaluate_run(config=config, recipe=recipe, **vars(options))
    return DONE
