"""A recipe: everything that decides what a training run learns, as values (read from a file: training.recipes)."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from model.fau import FauForm
from model.student import EncoderConfig, OwnConfig
from training.distillation import Distillation, SoftLoss

NetworkName = Literal["student", "hourglass", "resnet18", "mobilenetv2", "shufflenetv2"]
BEST = "best"
WEIGHTS = "ensemble hard_kl absent kd unlabelled box".split()  # of loss terms, each a key ending in _weight
CHANCES = "flip rotation half_body occlusion low_light noise blur mosaic close_up background".split()  # of Augment


class RecipeError(ValueError):
    """A recipe that cannot be trained; the message names the key, what was expected and what came."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one input size. Small inputs first: a quarter of the pixels costs a quarter."""

    epochs: int
    height: int
    width: int
    batch: int = 64


@dataclass(frozen=True)
class Branch:
    """One branch: its decoder's channels from coarse to fine, and convolutions per level; `stacks` for an hourglass.

    shuffle, features: the student's pose head predicts shuffle x shuffle heatmap cells at each place, from so many
    channels (model.student.DecoderConfig).
    """

    name: str
    widths: tuple[int, ...] = (96, 64, 32)
    depth: int = 1
    shuffle: int = 1
    features: int = 0
    stacks: int = 1  # of its own, after the shared ones
    tower: int = 0  # a detector's: convolutions that the scores have to themselves
    own: OwnConfig = OwnConfig()  # the student's: an encoder of the branch's own


@dataclass(frozen=True)
class Encoder:
    """The shared encoder: channels and further convolutions at strides 2 to 32, and 64 where there is a sixth of each.

    cross_stage: those convolutions in pairs on half of the channels (model.cross_stage). Or a factor on published ones.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    depths: tuple[int, ...] = (0, 0, 2, 3, 2)
    cross_stage: bool = False
    multiplier: float = 1.0  # resnet18, mobilenetv2 and shufflenetv2: factor on the published channels

    @property
    def student(self) -> EncoderConfig:
        """As the student's networks, poses' and people's, are built by it."""
        return EncoderConfig(self.widths, self.depths, self.cross_stage)


@dataclass(frozen=True)
class Hourglass:
    """What the branches of a stacked hourglass share: channels throughout, and the first stacks."""

    channels: int = 256
    shared: int = 1


@dataclass(frozen=True)
class Augment:
    """Random changes of a training picture. Probabilities 0..1; the rest are half-widths around "unchanged"."""

    flip: float = 0.5
    scale: float = 0.25  # factor in [1 / (1 + scale), 1 + scale]
    rotation_deg: float = 30.0
    rotation: float = 0.5
    shift: float = 0.05  # of the crop's sides
    half_body: float = 0.15
    occlusion: float = 0.2
    colour: float = 0.25
    low_light: float = 0.05
    noise: float = 0.05
    blur: float = 0.05
    mosaic: float = 0.5  # detector only: four pictures in one
    close_up: float = 0.0  # detector only: someone's head and shoulders fill the picture
    background: float = 0.0  # poses only: a part of the picture where nobody is, and every heatmap is empty


@dataclass(frozen=True)
class Recipe:
    """One training run.

    kept: the branch that is evaluated as the student and exported; "best" is the one that scores best on held-out
    people. network: what `encoder`, `hourglass` and the branches describe; each reads only the keys that concern it,
    and setting another's is refused. Keys are only ever added, with a default that is what was done before: a
    checkpoint's recipe stays valid.
    """

    name: str
    task: str  # "pose" or "detector"
    stages: tuple[Stage, ...]
    branches: tuple[Branch, ...] = (Branch("a"), Branch("b"), Branch("c"))
    kept: str = "a"
    encoder: Encoder = Encoder()
    fau: FauForm = "slim"
    augment: Augment = field(default_factory=Augment)
    seed: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup_epochs: float = 0.3
    cooldown: float = 1.0  # share of the run, at its end, in which the learning rate falls to zero along a cosine
    ema_decay: float = 0.999
    sigma: float = 2.0  # of the target Gaussian, in heatmap cells at the last stage's size
    ensemble_weight: float = 1.0
    hard_kl_weight: float = 0.2  # KL from the annotated heatmaps: ends the plateau in which MSE predicts nothing at all
    absent_weight: float = 0.0  # of the empty heatmap of a keypoint that is not labelled, being out of sight
    kd_weight: float = 2.0
    unlabelled_weight: float = 0.0  # in the KL from the teachers: of keypoints that they see and nobody labelled
    kd_ramp: float = 0.6  # share of the run over which the KL's weight rises to kd_weight
    temperature: float = 0.1  # of the softmax in the KL from whoever teaches; the annotation's has its own
    box_weight: float = 2.0
    region_share: float = 0.0  # of a batch of poses that are a detector's proposals, from which box heads learn
    evaluate_every: int = 1  # epochs from one evaluation and checkpoint to the next; after the last there is one too
    holdout: float = 0.04  # share of the training pictures kept aside to choose the branch and watch the run
    network: NetworkName = "student"
    hourglass: Hourglass = Hourglass()
    distillation: Distillation = "ensemble"  # who teaches the branches
    detach_target: bool = True  # False: the KL changes the ensemble that teaches, too, as in the authors' code
    soft_loss: SoftLoss = "kl"
    teacher_once: bool = False  # the teacher is asked once a person, in a plain crop of its own size, not once a crop

    def __post_init__(self) -> None:
        names = [branch.name for branch in self.branches]
        require(self.task in ("pose", "detector"), f"task must be pose or detector, got {self.task!r}")
        require(len(self.stages) > 0, "a recipe needs at least one [[stages]]")
        require(len(names) > 0 and len(set(names)) == len(names), f"branches need distinct names, got {names}")
        require(BEST not in names, f'a branch cannot be called "{BEST}": kept = "{BEST}" chooses among them')
        kept = self.kept in (*names, BEST)
        require(kept, f"kept must be one of the branches {names} or {BEST!r}, got {self.kept!r}")
        require(self.kept != BEST or self.holdout > 0, f"kept = {BEST!r} is chosen on held-out people: holdout is 0")
        require(self.fau in get_args(FauForm), f"fau must be one of {get_args(FauForm)}, got {self.fau!r}")
        require(0 <= self.holdout < 0.5, f"holdout must be in [0, 0.5), got {self.holdout}")
        require(self.temperature > 0, f"temperature must be above 0, got {self.temperature}")
        for name in WEIGHTS:
            weight = getattr(self, f"{name}_weight")
            require(weight >= 0, f"{name}_weight must be at least 0, got {weight}")
        self._check_regions()
        require(0 < self.cooldown <= 1, f"cooldown must be in (0, 1], got {self.cooldown}")
        require(0 <= self.ema_decay < 1, f"ema_decay must be in [0, 1), got {self.ema_decay}")
        require(self.learning_rate >= 0, f"learning_rate must be at least 0, got {self.learning_rate}")
        require(self.sigma > 0, f"sigma must be above 0, got {self.sigma}")
        require(self.evaluate_every > 0, f"evaluate_every must be above 0, got {self.evaluate_every}")
        require(self.seed >= 0, f"seed must be at least 0, got {self.seed}")
        require(self.augment.scale >= 0, f"augment.scale must be at least 0, got {self.augment.scale}")
        for name in CHANCES:
            chance = getattr(self.augment, name)
            require(0 <= chance <= 1, f"augment.{name} is a probability, 0 to 1, got {chance}")
        self._check_network()
        self._check_distillation()
        step = 64 if self.network == "hourglass" else 2 ** len(self.encoder.widths)
        for stage in self.stages:
            whole = min(stage.height, stage.width) > 0 and stage.height % step == stage.width % step == 0
            require(whole, f"input sides must be above 0 and divisible by {step}, got {stage.height}x{stage.width}")
            require(stage.epochs > 0 and stage.batch > 1, f"epochs must be > 0 and batch > 1, got {stage}")

    def _check_network(self) -> None:
        """The keys of the chosen network are possible, and no other network's are set."""
        name, encoder, default = self.network, self.encoder, Encoder()
        require(name in get_args(NetworkName), f"network must be one of {get_args(NetworkName)}, got {name!r}")
        require(name == "student" or self.task == "pose", f"a detector's network is the student, got {name!r}")
        if name == "hourglass":
            require(encoder == default, "an hourglass has no encoder; set [hourglass]")
            for branch in self.branches:
                plain = Branch(branch.name, stacks=branch.stacks)
                require(branch == plain, f"an hourglass branch has stacks, not widths and depth: branch {branch.name}")
                require(branch.stacks >= 1, f"a branch has at least one stack of its own, got {branch}")
            possible = self.hourglass.channels >= 4 and self.hourglass.channels % 4 == 0 and self.hourglass.shared >= 0
            require(possible, f"an hourglass has 4, 8, 12.. channels and shared >= 0 stacks, got {self.hourglass}")
            return
        require(self.hourglass == Hourglass(), f"[hourglass] is set, but the network is {name}")
        require(all(branch.stacks == 1 for branch in self.branches), f"stacks are an hourglass's, not {name}'s")
        student_pose = name == "student" and self.task == "pose"
        for branch in self.branches:
            possible = branch.shuffle == 1 or (student_pose and branch.shuffle in (2, 4))
            require(possible, f"shuffle is 1, or for the student's pose branches 2 or 4, got {branch}")
            possible = branch.features == 0 or (student_pose and branch.features > 0 and branch.depth > 0)
            require(possible, f"features are 0, or the student's pose branches' last convolution's, got {branch}")
        strides = {2 ** -len(branch.widths) / branch.shuffle for branch in self.branches}
        require(len(strides) == 1, "all branches must end at one resolution: give each the same widths and shuffle")
        levels = {len(branch.widths) for branch in self.branches}
        most = len(encoder.widths) - 2
        require(1 <= min(levels) <= most, f"a branch has 1 to {most} widths: it ends at stride 4 at the finest")
        for branch in self.branches:
            least = 0 if name == "student" else 1
            possible = min(branch.widths) > 0 and branch.depth >= least
            require(possible, f"a branch's widths must be above 0 and its depth at least {least}, got {branch}")
            self._check_own(branch.own)
            possible = branch.tower >= 0 and (branch.tower == 0 or self.task == "detector")
            require(possible, f"a tower is a detector's, of at least 0 convolutions, got {branch}")
        sizes = len(encoder.widths), len(encoder.depths)
        require(sizes in ((5, 5), (6, 6)), f"an encoder has 5 widths and depths, or 6, got {sizes[0]} and {sizes[1]}")
        if name == "student":
            even = not encoder.cross_stage or all(size % 2 == 0 for size in (*encoder.widths, *encoder.depths))
            require(even, f"with cross_stage an encoder's widths and depths are even, got {encoder}")
            require(encoder.multiplier == 1, "multiplier is for published encoders; the student has widths")
        else:
            given = Encoder(multiplier=encoder.multiplier)
            require(encoder == given, f"{name} has published widths and depths; set encoder.multiplier instead")
            require(encoder.multiplier > 0, f"encoder.multiplier must be above 0, got {encoder.multiplier}")

    def _check_own(self, own: OwnConfig) -> None:
        if own == OwnConfig():
            return
        require(self.network == "student", f"a branch of {self.network} has no encoder of its own, got {own}")
        levels = len(self.encoder.widths) - 1
        sizes = len(own.widths) == len(own.depths) == levels and min(own.widths) > 0 and min(own.depths) >= 0
        require(sizes, f"an own encoder has {levels} widths above 0 and {levels} depths, from stride 4 on, got {own}")

    def _check_regions(self) -> None:
        require(0 <= self.region_share < 1, f"region_share must be in [0, 1), got {self.region_share}")
        if self.region_share > 0:
            able = self.network == "student" and self.task == "pose"
            require(able, f"region_share is for pose students, which have box heads, not for {self.network}")
            sizes = {(stage.height, stage.width) for stage in self.stages}
            require(len(sizes) == 1, f"region_share needs stages of one size: a box head sees no other, got {sizes}")

    def _check_distillation(self) -> None:
        """The branches have somebody to learn from, and no part of the network is left without a loss."""
        how, alone = self.distillation, len(self.branches) == 1
        require(how in get_args(Distillation), f"distillation must be one of {get_args(Distillation)}, got {how!r}")
        soft = self.soft_loss in get_args(SoftLoss)
        require(soft, f"soft_loss must be one of {get_args(SoftLoss)}, got {self.soft_loss!r}")
        asked = how == "teacher" and self.task == "pose"
        require(asked or not self.teacher_once, "teacher_once is for poses that are learnt from a teacher")
        require(how != "mutual" or not alone, "mutual distillation needs at least two branches")
        weighed = how == "ensemble" or alone or self.fau == "mean"
        require(weighed, f'{how} distillation learns no weights of branches: set fau = "mean", got {self.fau!r}')
        taught = self.soft_loss == "kl" and self.kd_weight > 0 and (how == "teacher" or not alone)
        require(self.unlabelled_weight == 0 or taught, "unlabelled_weight is of a KL from teachers, and there is none")
        require(self.kd_ramp > 0, f"kd_ramp must be above 0, got {self.kd_ramp}")

    @property
    def epochs(self) -> int:
        """Epochs over all stages."""
        return sum(stage.epochs for stage in self.stages)

    def stage_of(self, epoch: int) -> Stage:
        """The stage that epoch 0..epochs-1 belongs to."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage
            epoch -= stage.epochs
        raise IndexError("epoch past the last stage")


def require(truth: bool, message: str) -> None:
    """Raises RecipeError with `message` where `truth` is not."""
    if not truth:
        raise RecipeError(message)
