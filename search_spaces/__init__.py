"""Search spaces: what an evolutionary search over model merges varies, without any weights.

* A *genome* is one point of a space: a flat tuple of values, one per *variable*; a variable is
  typed, bounded and named (`variables`).
* A *search space* knows its variables and decodes genomes into recipes (`space`); the *parameter
  space* varies the numbers of merge rules, and which rule and stages (`parameter`), with a
  *granularity*: which weights share a variable (`granularity`).
* A *stack* is a model whose layers follow each other in any order, a *path* of *hops* over a *pool* of
  models (`stacking`). Four spaces search them: any order (`path`), a choice of a row of all layers
  (`indicator`), published ways to stack (`templates`), and merged layers in any order (`hybrid`).
* A *recipe* is an immutable, hashable plan for one model: slices of layers, the *sources* that go
  into each, a *merge rule* and its *settings* by tensor and depth (`recipe`, `settings`). Its
  `plans` say for each tensor what is merged and with which numbers (`plans`).
* A *merge rule* is a pipeline of stages, declared as data (`rules`, `stages`); a recipe may choose
  other stages by tensor and depth (`composition`). `evomerge.merge` computes it.
* A *tensor role* is what a weight is, read off its name: layer and component (`roles`).
* The *dialect* is mergekit's YAML, read and written (`dialect`).

Nothing here imports torch or touches weights. A mistake in what the user wrote is an `InputError`.
"""

from search_spaces.dialect import dump_recipe, load_recipe, parse_recipe
from search_spaces.errors import InputError
from search_spaces.granularity import Granularity
from search_spaces.hybrid import HybridSpace
from search_spaces.indicator import IndicatorSpace
from search_spaces.parameter import ParameterSpace
from search_spaces.path import PathSpace
from search_spaces.recipe import Clause, Input, Recipe, Setting, Slice, TensorInput, TensorPlan
from search_spaces.roles import COMPONENTS, Role, role
from search_spaces.rules import PARAMETERS, RULES, STAGES, Parameter, Rule, rule_named
from search_spaces.slots import Slots
from search_spaces.space import SearchSpace, check_genome, from_unit, named, to_unit
from search_spaces.stacking import Hop, Pool
from search_spaces.template_table import TEMPLATES
from search_spaces.templates import TemplateSpace
from search_spaces.variables import Choice, Genome, Integer, Real, Variable

__all__ = [
    "COMPONENTS",
    "PARAMETERS",
    "RULES",
    "STAGES",
    "TEMPLATES",
    "Choice",
    "Clause",
    "Genome",
    "Granularity",
    "Hop",
    "HybridSpace",
    "IndicatorSpace",
    "Input",
    "InputError",
    "Integer",
    "Parameter",
    "ParameterSpace",
    "PathSpace",
    "Pool",
    "Real",
    "Recipe",
    "Role",
    "Rule",
    "SearchSpace",
    "Setting",
    "Slice",
    "Slots",
    "TemplateSpace",
    "TensorInput",
    "TensorPlan",
    "Variable",
    "check_genome",
    "dump_recipe",
    "from_unit",
    "load_recipe",
    "named",
    "parse_recipe",
    "role",
    "rule_named",
    "to_unit",
]
