"""The command line: LightningCLI with our classes, one folder a run, and errors that can be read."""

import json
import logging
import os
import re
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from callbacks.checkpoint import ExactResume, RunCheckpoint
from callbacks.compile import Compile
from callbacks.data_wait import DataWait
from callbacks.feature_map import FeatureMap
from callbacks.finite import FiniteLoss
from callbacks.knn import KNNMonitor
from callbacks.labelled_indices import LabelledIndices
from callbacks.linear import LinearEvaluation
from callbacks.predictions import PredictionsFile
from callbacks.preemption import Preemption
from callbacks.rank import RankMonitor
from callbacks.results import ResultsFile, atomic_open, table
from callbacks.tracking import NEAR, precision_curve, success_curve
from callbacks.zero_shot import TEMPLATES
from datamodules.boxes import box_of
from datamodules.corpus import lines
from datamodules.data import Data
from datamodules.shards import write_shards
from datamodules.text_file import found_files
from datamodules.tokenizer import Tokenized
from datamodules.video import FrameFolder
from datamodules.word_pieces import VOCAB_SIZE, train
from ssl_lightning import __version__, errors, methods, track, zero_shot
from ssl_lightning.base import OPTIMIZATION, SSLModule
from ssl_lightning.compare import compare
from ssl_lightning.errors import ParseError, UserError
from ssl_lightning.export import LAYOUTS, export
from ssl_lightning.run import (
    MetricsFile,
    Progress,
    RunFolder,
    Saved,
    find_checkpoint,
    folder_of,
    latest_config,
    new_folder,
    refuse_used,
    saved_method,
)

__all__ = ["SSLCLI", "methods", "run"]

# facts of the data that a method may need
SIZES = ("image_size", "in_channels", "num_classes", "num_tags", "vocab_size", "mask_token", "end_token", "max_tokens")
EVALUATION = {"knn": KNNMonitor, "linear": LinearEvaluation, "rank": RankMonitor, "map": FeatureMap}
NOT_SAVED = ("run", "ckpt_path", "weights_only", "config")  # of one start, not of the run


class SSLCLI(LightningCLI):
    """Builds data, method and trainer from words and YAML; ``start`` then runs the verb.

    Sizes go from the data to the method here and nowhere else. What a checkpoint and its run say holds unless the
    user says otherwise, and what would be ignored is an error.

    Args:
        args: A verb (fit, validate, test, predict) and its options.
    """

    def __init__(self, args: list[str]) -> None:
        self.saved: Saved | None = None
        self.changed: dict[str, tuple[Any, Any]] = {}  # settings of the model: in the checkpoint, now
        self.checkpoint: Path | None = None
        self.placeholders: set[str] = set()  # sizes that stand for what the data will say
        super().__init__(
            SSLModule,
            Data,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults={
                "max_epochs": 200,
                "use_distributed_sampler": False,  # our sampler knows the processes
                "enable_autolog_hparams": False,
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            parser_class=errors.Parser,
            parser_kwargs={"prog": "ssl-lightning"},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    # ---- parsing

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run", type=str, help="Folder of the run; by default runs/<model>-<data>-<time>.")
        parser.add_argument(
            "--compile", type=bool, default=False, help="In fit: compile the networks by torch.compile."
        )
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})
        # neither is required by the parser: a checkpoint and its run may give them
        parser.add_lightning_class_args(SSLModule, "model", subclass_mode=True, required=False)
        parser.add_lightning_class_args(Data, "data", subclass_mode=True, required=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        for name, callback in EVALUATION.items():
            parser.add_lightning_class_args(callback, name)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        verb, *words = args
        flags = errors.Words("ssl-lightning", allow_abbrev=False, add_help=False)
        flags.add_argument("--run")
        flags.add_argument("--ckpt_path")
        asked, _ = flags.parse_known_args(words)
        self.checkpoint = find_checkpoint(asked.run, asked.ckpt_path)
        if self.checkpoint is None:
            self.config = self.parse(parser, [verb, *words])
            given = self.parse(parser, [verb, *words], defaults=False)[verb]
        else:
            self.saved = saved_method(self.checkpoint)
            self.config = self.parse_onto(self.saved, self.checkpoint, parser, verb, words)
            given = Namespace()
        config = self.config[verb]
        self.given_sizes = set(given.get("model.init_args", Namespace()).keys()) - self.placeholders
        for key, base in (("model", SSLModule), ("data", Data)):
            if config[key] is None:
                known = ", ".join(errors.subclasses(base))
                raise UserError(f"{verb} needs --{key}{' or --ckpt_path' * (key == 'model')}. Known: {known}")
        if config.ckpt_path != asked.ckpt_path or config.run != asked.run:
            raise UserError("give --run and --ckpt_path on the command line, not in a file")
        if config.trainer.default_root_dir is not None:
            raise UserError("--trainer.default_root_dir is set by --run DIR")
        if self.saved:
            self.check_against(self.saved, verb)
        names = [config[key].class_path.split(".")[-1] for key in ("model", "data")]
        self.folder = Path(asked.run) if asked.run else folder_of(self.checkpoint) or new_folder(*names)
        if verb == "fit" and not config.trainer.fast_dev_run:
            refuse_used(self.folder, self.checkpoint)

    def parse(self, parser: LightningArgumentParser, args: list[str], defaults: bool = True) -> Namespace:
        """Parse; a size that the method requires and the user leaves to the data is no error here."""
        extra: list[str] = []
        while True:
            try:
                config = parser.parse_args(args + extra, defaults=defaults)
            except ParseError as error:
                new = [f"--model.{name}=2" for name in errors.missing(str(error)) if name in SIZES]
                if not new or new[0] in extra:
                    raise UserError(errors.explain(str(error), self._parser(args[0]), args[0])) from error
                extra += new
            else:
                self.placeholders = {option[len("--model.") : -len("=2")] for option in extra}
                return config

    def parse_onto(
        self, saved: Saved, checkpoint: Path, parser: LightningArgumentParser, verb: str, words: list[str]
    ) -> Namespace:
        """The checkpoint gives the method, its run's config.yaml the rest; what the user says goes on top."""
        base: dict[str, Any] = {}
        if config := latest_config(folder_of(checkpoint)):
            base = yaml.safe_load(config.read_text())
            if verb != "fit":  # the machine of the training is not that of the evaluation
                base = {k: v for k, v in base.items() if k in ("seed_everything", "data", *EVALUATION)}
        if saved.tokenizer is not None and "data" in base:  # the checkpoint has it, wherever the file may be now
            base["data"].get("init_args", {}).pop("tokenizer", None)
        base["model"] = {"class_path": saved.class_path, "init_args": saved.init_args}
        parsed = self.parse(parser, [verb, "--config", json.dumps(base), *words])
        if "data" in base and parsed[verb].data.class_path != base["data"]["class_path"]:
            del base["data"]  # its arguments say nothing about another data set
            parsed = self.parse(parser, [verb, "--config", json.dumps(base), *words])
        return parsed

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would let the checkpoint's values win over the user's without a word."""

    def check_against(self, saved: Saved, verb: str) -> None:
        """
        Raises:
            UserError: the checkpoint is of another method, or a setting differs that would be ignored.
        """
        model = self.config[verb].model
        if errors.import_class(model.class_path) is not errors.import_class(saved.class_path):
            here, there = model.class_path.split(".")[-1], saved.class_path.split(".")[-1]
            raise UserError(f"{self.checkpoint} is of {there}, --model is {here}: drop --model or --ckpt_path")
        now, then = (json.loads(json.dumps(plain(args))) for args in (model.init_args, saved.init_args))
        self.changed = {k: (then[k], v) for k, v in now.items() if k in then and then[k] != v}
        free = errors.import_class(model.class_path).evaluation_settings
        for name, (old, new) in self.changed.items():
            here = f"{new!r} for model.{name} would be ignored"
            if verb != "fit" and name not in free:
                raise UserError(f"{here}: {verb} takes the model from the checkpoint, with {old!r}. Drop it")
            if name in OPTIMIZATION:
                raise UserError(
                    f"{here}: the optimizer comes from the checkpoint, with {old!r}. "
                    "Drop it, or start a new run without --ckpt_path"
                )

    # ---- building

    def instantiate_classes(self) -> None:
        verb = self.config.subcommand
        parser, config = self._parser(verb), self.config[verb]
        self.datamodule = self.build(parser, Namespace(data=config.data)).data
        if self.saved is not None and self.saved.tokenizer is not None and isinstance(self.datamodule, Tokenized):
            self.datamodule.use_tokenizer(self.saved.tokenizer, f"the tokenizer of {self.checkpoint}")
        self.fill_sizes(config.model)
        self.model = self.build(parser, Namespace(model=config.model)).model
        rest = Namespace({k: v for k, v in vars(config).items() if k not in ("model", "data")})
        self.config_init = Namespace({verb: self.build(parser, rest), "subcommand": verb})
        self.trainer = self.instantiate_trainer()

    def build(self, parser: LightningArgumentParser, config: Namespace) -> Namespace:
        """Instantiate, and let an error of a constructor through as it was raised."""
        raised: list[BaseException] = []

        def construct(cls: type, *args: Any, **kwargs: Any) -> Any:
            try:
                return cls(*args, **kwargs)
            except Exception as error:  # jsonargparse wraps it into words about types
                raised.append(error)
                raise

        parser.add_instantiator(construct, object, subclasses=True)
        try:
            return parser.instantiate_classes(config)
        except Exception as error:
            raise (raised[0] if raised else error) from None

    def fill_sizes(self, model: Namespace) -> None:
        """Give the method the sizes of the data, where it takes them and the user has not set them.

        Raises:
            UserError: the user has set another size, the method needs labels that the data do not have, or the data
                are of another kind.
        """
        verb, data = self.config.subcommand, type(self.datamodule).__name__
        name = model.class_path.split(".")[-1]
        for size in SIZES:
            if size not in model.init_args:
                continue
            fixed = size in self.given_sizes or (self.saved is not None and model.init_args[size] is not None)
            if not hasattr(self.datamodule, size):
                if fixed or model.init_args[size] is None:  # as where a CLIP is tested on labelled images
                    continue
                raise UserError(f"{name} needs {size}, and {data} has {self.datamodule.unit}: give it other data")
            fact, set_to = getattr(self.datamodule, size), model.init_args[size]
            if fact is None and not fixed:
                raise UserError(f"{name} needs {size}, but the data of {data} have no labels: use labelled data")
            if fixed and fact not in (None, set_to):
                if self.saved is None:
                    raise UserError(f"--model.{size} is {set_to}, but {data} has {fact}: drop it, the data set it")
                can_be_set = size in self.config[verb].data.init_args
                way_out = f"give --data.{size} {set_to}" if can_be_set else "give data of that size"
                raise UserError(f"{name} was trained with {size} {set_to}, but {data} has {fact}: {way_out}")
            if not fixed:
                model.init_args[size] = fact

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        verb = self.config.subcommand
        if verb != "fit":  # the callbacks of the training are not missed
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks used to create")
        config = self.config_init[verb].trainer
        self.run_folder = RunFolder(self.config_text(), resumed=self.checkpoint is not None)
        # before the folder says how the run goes on, it is known whether it may
        callbacks: list[Callback] = [
            LabelledIndices(),
            self.run_folder,
            DataWait(),
            FiniteLoss(),
            Preemption(),
            ExactResume(),
        ]
        callbacks += [ResultsFile(), PredictionsFile()]
        if self.config[verb].compile:
            callbacks.append(Compile())
        theirs = config.callbacks if isinstance(config.callbacks, list) else [config.callbacks]
        if config.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in theirs):
            callbacks.append(Progress())
        self.trainer_defaults["callbacks"] = callbacks
        loggers = config.logger if isinstance(config.logger, list) else [config.logger]
        if config.logger in (None, True):
            loggers = []
        if config.logger is not False and verb == "fit":  # the other verbs write results.json or a table
            kwargs["logger"] = [*loggers, MetricsFile(self.folder)]
        else:
            kwargs["logger"] = loggers
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
            # srun started us; the requeue is Preemption's, at the end of a step
            plugins = config.plugins if isinstance(config.plugins, list) else [config.plugins]
            kwargs["plugins"] = [p for p in plugins if p] + [SLURMEnvironment(auto_requeue=False)]
        if config.enable_checkpointing is False or config.fast_dev_run:
            parser = self._parser(verb)
            parser.callback_keys = [key for key in parser.callback_keys if key != "checkpoint"]
        return super().instantiate_trainer(default_root_dir=str(self.folder), **kwargs)

    def config_text(self) -> str:
        """The whole configuration as YAML: what ``-c`` takes to do the same run anew."""
        verb = self.config.subcommand
        text = self._parser(verb).dump(self.config[verb], skip_none=False)
        config = {k: v for k, v in yaml.safe_load(text).items() if k not in NOT_SAVED}
        return f"# ssl-lightning {__version__}\n{yaml.safe_dump(config, sort_keys=False)}"

    # ---- running

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing yet: ``start`` does it, so that errors before and after can be told apart."""

    def start(self) -> None:
        """Run the verb.

        Raises:
            UserError: the weights of the checkpoint do not fit the model.
        """
        try:
            super()._run_subcommand(self.config.subcommand)
        except RuntimeError as error:
            if not str(error).startswith("Error(s) in loading state_dict") or self.run_folder.began:
                raise
            changed = ", ".join(f"{k} {old!r} -> {new!r}" for k, (old, new) in self.changed.items())
            reason = changed or "the class has changed since then"
            raise UserError(f"the weights of {self.checkpoint} do not fit this model: {reason}") from error

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if "verbose" in kwargs:
            kwargs["verbose"] = False  # we print tables of our own
        return {**kwargs, "ckpt_path": str(self.checkpoint) if self.checkpoint else None}

    def after_fit(self) -> None:
        folder = self.folder
        if not (folder / "checkpoints" / "last.ckpt").is_file():  # fast_dev_run
            return
        say(f"checkpoint  {folder}/checkpoints/last.ckpt")
        if (folder / "pictures").is_dir():
            say(f"pictures    {folder}/pictures")
        say(f"next        ssl-lightning test --run {folder} --ckpt_path last")

    def after_validate(self) -> None:
        say(table({name: float(value) for name, value in self.trainer.callback_metrics.items()}, {}))

    def after_test(self) -> None:
        say(f"written     {self.folder}/results.json")
        if (self.folder / "pictures").is_dir():
            say(f"pictures    {self.folder}/pictures")


def plain(value: Any) -> Any:
    """Nested Namespaces as dicts."""
    return value.as_dict() if isinstance(value, Namespace) else value


@rank_zero_only
def say(words: str) -> None:
    print(words, flush=True)


def is_news(record: logging.LogRecord) -> bool:
    """Whether Lightning says what a user wants to know, not what it says of every run."""
    noise = r"Tip:|[TH]PU available|GPU available: False|Seed set to|`weights_only` was not set|^Loading `"
    return not re.search(noise, record.getMessage())


def quiet() -> None:
    """Drop the lines that Lightning writes on every run whatever it is asked, advertisements among them."""
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
        "lightning.pytorch.trainer.connectors.checkpoint_connector",
    ):
        logging.getLogger(name).addFilter(is_news)
    for pattern in (
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
        "Starting from v1.9.0, `tensorboardX` has been removed",
        ".*does not have many workers",
        "The number of training batches .* is smaller than the logging interval",
        "`weights_only` was not set",
        r"(?s)\s*By default only one JsonargparseDeprecationWarning",
        r"(?s).*removed in v5\.0\.0",  # what Lightning itself calls of jsonargparse
    ):
        warnings.filterwarnings("ignore", pattern)


def run_export(words: list[str]) -> None:
    parser = errors.Words("ssl-lightning export", allow_abbrev=False)
    parser.add_argument("--ckpt_path", required=True, help="A checkpoint, or 'last' with --run.")
    parser.add_argument("--run", help="Folder of the run.")
    parser.add_argument("--output", required=True, help="The .safetensors file to write; of BERT, CLIP a folder.")
    parser.add_argument("--which", choices=("student", "teacher"), default="student")
    parser.add_argument("--layout", choices=LAYOUTS, default="native")
    args = parser.parse_args(words)
    export(find_checkpoint(args.run, args.ckpt_path) or "", args.output, which=args.which, layout=args.layout)
    say(f"wrote {args.output}")


def run_shards(words: list[str]) -> None:
    parser = errors.Words("ssl-lightning shards", allow_abbrev=False)
    parser.add_argument("--table", required=True, help="CSV or TSV with the columns filepath and title.")
    parser.add_argument("--output", required=True, help="The folder to write.")
    parser.add_argument("--images_per_shard", type=int, default=1000)
    args = parser.parse_args(words)
    say(f"wrote {write_shards(args.table, args.output, args.images_per_shard)} shards into {args.output}")


def run_zeroshot(words: list[str]) -> None:
    parser = errors.Words("ssl-lightning zeroshot", allow_abbrev=False)
    parser.add_argument("--ckpt_path", required=True, help="A checkpoint of CLIP, or 'last' with --run.")
    parser.add_argument("--run", help="Folder of the run.")
    parser.add_argument("--images", required=True, help="Folder of pictures.")
    parser.add_argument("--classes", required=True, help="Words with commas between them: cat,dog")
    parser.add_argument("--templates", nargs="+", default=list(TEMPLATES), help="Sentences with {} for the word.")
    parser.add_argument("--output", default="zeroshot", help="Folder for zeroshot.csv and zeroshot.png (%(default)s).")
    args = parser.parse_args(words)
    names = [name.strip() for name in args.classes.split(",") if name.strip()]
    files = zero_shot.find_images(Path(args.images))
    model = zero_shot.load_aligned(find_checkpoint(args.run, args.ckpt_path) or Path())
    cosines, probabilities, pixels = zero_shot.classify(model, files, names, args.templates)
    shown = [file.relative_to(args.images).as_posix() for file in files]
    zero_shot.write(Path(args.output), shown, names, cosines, probabilities, pixels)
    say(zero_shot.table(shown, names, probabilities))
    say(f"written     {args.output}/zeroshot.csv\npictures    {args.output}/zeroshot.png")


def run_track(words: list[str]) -> None:
    parser = errors.Words("ssl-lightning track", allow_abbrev=False)
    parser.add_argument("--ckpt_path", required=True, help="A checkpoint of UDT or DCF, or 'last' with --run.")
    parser.add_argument("--run", help="Folder of the run.")
    parser.add_argument("--video", required=True, help="Folder of frames, or with frames in img/.")
    parser.add_argument("--box", help="x,y,w,h in the first frame, whose first column is 1; by default the annotated.")
    parser.add_argument("--output", default="track", help="Folder for boxes.txt and track.png (%(default)s).")
    args = parser.parse_args(words)
    video = FrameFolder(Path(args.video))
    if args.box is None and video.boxes is None:
        raise UserError(f"sequence {video.name} is not annotated: give --box x,y,w,h of the target in its first frame")
    box = video.boxes[0] if args.box is None and video.boxes is not None else box_of(args.box)
    model = track.load_tracking(find_checkpoint(args.run, args.ckpt_path) or Path())
    boxes, seconds = model.track(video, box)
    track.write(Path(args.output), video, boxes)
    say(f"{len(video)} frames, {len(video) / seconds:.1f} a second without reading them")
    if video.boxes is not None:
        auc, near = success_curve(boxes, video.boxes).mean(), precision_curve(boxes, video.boxes)[NEAR]
        say(f"success AUC {auc:.3f}, precision {near:.3f} at {NEAR} px")
    say(f"written     {args.output}/boxes.txt\npictures    {args.output}/track.png")


def run_compare(words: list[str]) -> None:
    parser = errors.Words("ssl-lightning compare", allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="Folder of a run that was tested, or a results.json.")
    parser.add_argument("--output", default="compare", help="Folder for compare.html, .md and .csv (%(default)s).")
    args = parser.parse_args(words)
    text, left_out = compare(map(Path, args.runs), Path(args.output))
    for line in left_out:
        print(f"warning: left out {line}", file=sys.stderr)
    say(f"{text}\n\nwritten     {args.output}/compare.md\n            {args.output}/compare.csv")
    say(f"page        {args.output}/compare.html")


def run_tokenizer(words: list[str]) -> None:
    parser = errors.Words("ssl-lightning tokenizer", allow_abbrev=False)
    parser.add_argument("--files", required=True, nargs="+", help="Text files or patterns, one sentence a line.")
    parser.add_argument("--output", required=True, help="The .json file to write, for --data.tokenizer.")
    parser.add_argument("--vocab_size", type=int, default=VOCAB_SIZE, help="Pieces (%(default)s).")
    parser.add_argument("--cased", action="store_true", help="Keep capitals and accents.")
    args = parser.parse_args(words)
    text = train(partial(lines, found_files(args.files)), args.vocab_size, lowercase=not args.cased)
    with atomic_open(Path(args.output)) as file:
        file.write(text.encode())
    say(f"wrote {args.output}")


def run(args: list[str]) -> None:
    """Carry out a command of ``ssl-lightning``.

    Raises:
        SystemExit: 2 after a message where the input is wrong; 143 or 138 when preempted.
    """
    quiet()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a class of the user's own; behind our packages
    cli = None
    try:
        if args[0] == "export":
            run_export(args[1:])
        elif args[0] == "shards":
            run_shards(args[1:])
        elif args[0] == "zeroshot":
            run_zeroshot(args[1:])
        elif args[0] == "track":
            run_track(args[1:])
        elif args[0] == "compare":
            run_compare(args[1:])
        elif args[0] == "tokenizer":
            run_tokenizer(args[1:])
        else:
            cli = SSLCLI(args)
            cli.start()
    except errors.WRONG_INPUT as error:
        began = cli is not None and cli.run_folder.began
        if os.environ.get("JSONARGPARSE_DEBUG") == "true" or not errors.is_users(error, began):
            raise
        print(f"error: {errors.words(error)}", file=sys.stderr)
        raise SystemExit(2) from None
