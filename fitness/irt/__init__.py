"""Item response theory: how hard items are, how able models are, from who answered what (NumPy).

An item has one slope per dimension and an intercept; a model has an ability, one number per
dimension. A model of ability theta scores sigmoid(slopes . theta + intercept) on an item.
"""

from fitness.irt.ability import Ability, Prior, ability
from fitness.irt.fitting import fit_items
from fitness.irt.item_model import ItemModel

__all__ = ["Ability", "ItemModel", "Prior", "ability", "fit_items"]
