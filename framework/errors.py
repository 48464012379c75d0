"""The one root of every error that is the user's to mend. Knows nothing of the rest of the package.

    UserError                    bad input: one clear line on stderr, exit code 2, a traceback only with --debug
      PluginError                registry.py: UnknownPlugin, AmbiguousPlugin, BrokenPlugin
      ConfigError                commands/: unknown key, wrong type, a missing file
      DataError                  datasets/, batches/: missing, empty, truncated or altered data
      TokenizerError             tokenizers/: a tokenizer that is missing, damaged or does not fit
      CheckpointError            training/, checkpoint.py: damaged, incompatible or unwritable checkpoints
      StorageError               files.py: a full disk, a place that is not writable
      RequestError               engine/, samplers/: an option outside its range, a prompt that is too long
      RewardError                rewards/runner.py: a reward that cannot be run, or fails for too many replies
      RolloutFailed              recipes/writer.py: the policy could not write a reply
      SelfTestFailed             recipes/self_test.py: reinforcement learning that would learn the wrong thing
      NonFiniteLoss, Stopped     recipes/recipe.py, training/stopping.py: how a run ends before its time
      WritingFailed              ranking/writer.py: a model that can no longer write replies to rank

A message names the thing, where it came from and the fix.
"""


class UserError(Exception):
    """The user's mistake, or the environment's: shown as one clear line, never as a traceback."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration that cannot be used as written."""


class DataError(UserError):
    """Data that is missing, empty, truncated or altered."""


class TokenizerError(UserError):
    """A tokenizer that is missing, damaged or does not fit what it is used with."""


class CheckpointError(UserError):
    """A checkpoint or model directory that is missing, damaged, incompatible or cannot be written."""


class StorageError(UserError):
    """A file that could not be written; what stood in its place is intact."""

    exit_code = 1


class RequestError(UserError, ValueError):
    """A generation request that cannot be served as asked."""
