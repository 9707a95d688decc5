"""What a [`~diq_hf.DIQScorer`] knows of its validation gradients: computed when needed, or taken from elsewhere."""

from collections.abc import Sequence

import numpy as np

from ..engine.influence import Direction
from .alignment import validation_projections
from .columns import progress
from .recipe import direction_recipes, half_recipe
from .reliability import half_counts, half_gradients, joint_difference


class ValidationGradients:
    """Methods of [`~diq_hf.DIQScorer`] beside its call, as [`~diq_hf.scoring.whole.WholeDatasets`] has others."""

    def direction_recipes(self) -> list[str]:
        """Name what decides each group's validation gradient; whatever is scored by it plays no part."""
        return direction_recipes(self)

    def validation_gradients(self) -> list[Direction]:
        """Each group's mean validation gradient at the model's present weights, computed when first needed."""
        recipes = self.direction_recipes()
        self._fill(recipes, halves=False)
        return [self._directions[recipe] for recipe in recipes]

    def half_difference(self) -> Direction | None:
        """The validation gradient of one random half of the validation rows less that of the other, from the same
        pass; `None` where they are too few."""
        recipes = self.direction_recipes()
        self._fill(recipes, halves=True)
        if self._joint is None or self._joint[0] != recipes:
            means, differences = (
                [self._directions[name(recipe)] for recipe in recipes] for name in (str, half_recipe)
            )
            self._joint = recipes, joint_difference(means, differences, half_counts(self.validation))
        return self._joint[1]

    def validation_projections(self) -> np.ndarray:
        """Each validation row's projected gradient at the model's present weights, in the order of their turns."""
        recipes = self.direction_recipes()
        if self._projected is None or self._projected[0] != recipes:
            rows_of_all = [row for rows in self.validation.values() for row in rows]
            with self.meter.validation(), progress("Validation rows", rows_of_all) as bar:
                self._projected = recipes, validation_projections(self, bar.update)
        return self._projected[1]

    def direction(self, recipe: str) -> Direction:
        """A direction that is known, by what it was made by."""
        return self._directions[recipe]

    def _fill(self, recipes: Sequence[str], halves: bool) -> None:
        """Computes what is missing, a group at a time: one that is known is not paid for again."""
        current = {*recipes, *map(half_recipe, recipes)}
        self._directions = {recipe: found for recipe, found in self._directions.items() if recipe in current}
        groups = dict(zip(recipes, self.validation.values(), strict=True))
        missing = {
            recipe: rows
            for recipe, rows in groups.items()
            if recipe not in self._directions or (halves and half_recipe(recipe) not in self._directions)
        }
        if not missing:
            return
        rows_of_all = [row for rows in missing.values() for row in rows]
        with self.meter.validation(), progress("Validation gradient", rows_of_all) as bar:
            gradient = lambda rows: self.engine.validation_gradient(rows, bar.update)  # noqa: E731
            for recipe, rows in missing.items():
                self._directions[recipe], self._directions[half_recipe(recipe)] = half_gradients(rows, gradient)

    def use_direction(self, recipe: str, direction: Direction) -> None:
        """Takes a validation gradient that was computed elsewhere, under one of [`~DIQScorer.direction_recipes`]."""
        self._directions[recipe] = self.engine.laid(direction) if direction.tensors else direction
