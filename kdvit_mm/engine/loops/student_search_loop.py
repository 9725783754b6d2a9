"""Searches a student by mmrazor's evolution."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dist import get_world_size
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmrazor.engine.runner.evolution_search_loop import EvolutionSearchLoop
from torch.utils.data import DataLoader

from kdvit_mm.models.algorithms.diswot import DisWOT
from kdvit_mm.registry import LOOPS

#: Draws in a row that may miss the constraints.
PATIENCE = 1000


@LOOPS.register_module()
class StudentSearchLoop(EvolutionSearchLoop):
    """Evolves architectures of a student by what :class:`DisWOT` says.

    mmrazor's ``EvolutionSearchLoop`` draws, mutates and crosses the
    candidates. Its candidates are parts of a supernet, whose accuracy is
    validated; here they are models of their own, which are built, scored on
    the first training batch, and dropped. A student is scored once however
    often it comes up. It takes minutes, so that nothing is saved on the way.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The training data.
        max_epochs (int): Generations. Defaults to 20.
        num_candidates (int): Candidates of a generation. Defaults to 50.
        top_k (int): Candidates that have descendants. Defaults to 10.
        num_mutation (int): Descendants by mutation. Defaults to 25.
        num_crossover (int): Descendants by crossover; the two may not be more
            than ``num_candidates``, and what is left of it is drawn. Defaults
            to 25.
        mutate_prob (float): Probability that a mutation changes a choice.
            Defaults to 0.1.
        crossover_prob (float): Probability that a crossover takes a choice
            from the second parent. Defaults to 0.5.
        constraints_range (Mapping[str, Sequence[float]] | None): Least and
            most ``flops`` and ``params``, in millions, at the size of the
            batch's images. Defaults to None, no constraint.

    Attributes:
        ranking (list[dict[str, Any]]): All students that were scored, the
            best first, each with ``choices``, ``score``, ``relation``,
            ``semantic``, ``flops`` and ``params``.

    Raises:
        TypeError: If the model is not a :class:`DisWOT`.
        ValueError: If there are several processes, a constraint is not known
            or, when it runs, no student fits the constraints.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        max_epochs: int = 20,
        num_candidates: int = 50,
        top_k: int = 10,
        num_mutation: int = 25,
        num_crossover: int = 25,
        mutate_prob: float = 0.1,
        crossover_prob: float = 0.5,
        constraints_range: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        if not isinstance(runner.model, DisWOT) or get_world_size() > 1:
            raise TypeError(
                'StudentSearchLoop scores students in one process, by a model '
                f'of type DisWOT, but got {type(runner.model).__name__} and '
                f'{get_world_size()} processes.'
            )
        constraints = dict(constraints_range or {})
        unknown = constraints.keys() - {'flops', 'params'}
        if unknown:
            raise ValueError(
                f'StudentSearchLoop: constraints_range has {min(unknown)}; it '
                'may have flops and params.'
            )
        super().__init__(
            runner,
            dataloader,
            # Nothing is validated.
            Evaluator([]),
            max_epochs=max_epochs,
            num_candidates=num_candidates,
            top_k=top_k,
            num_mutation=num_mutation,
            num_crossover=num_crossover,
            mutate_prob=mutate_prob,
            crossover_prob=crossover_prob,
            constraints_range=constraints,
        )
        self._known: dict[str, dict[str, Any]] = {}
        self._misses = 0

    @property
    def ranking(self) -> list[dict[str, Any]]:
        """list[dict[str, Any]]: The students that were scored, sorted."""
        scored = [x for x in self._known.values() if 'score' in x]
        return sorted(scored, key=lambda x: -x['score'])

    def run(self) -> None:
        """Searches."""
        self.see_batch()
        super().run()

    def see_batch(self) -> None:
        """Shows the model the first batch, which all are scored on."""
        self.model.see(next(iter(self.dataloader)))

    def look_at(self, config: dict) -> dict[str, float]:
        """Builds a student, counts its operations and scores it.

        Args:
            config (dict): Its config.

        Returns:
            dict[str, float]: What :attr:`ranking` has of it but the choices;
            without a score if it does not fit the constraints.
        """
        found: dict[str, float] = self.estimator.estimate(
            self.model.build(config),
            # Raw numbers: mmrazor rounds what it converts.
            flops_params_cfg={
                'input_shape': (1, *self.model.image_size),
                'units': None,
            },
        )
        for key in ('flops', 'params'):
            found[key] /= 1e6
        if self._fits(found):
            found |= self.model.score(config)
        return found

    def examine(self, choices: dict[str, str]) -> dict[str, Any]:
        """Looks at a student once, however often it comes up.

        Args:
            choices (dict[str, str]): What its mutator chose.

        Returns:
            dict[str, Any]: What :attr:`ranking` has of it; without a score if
            it does not fit the constraints.
        """
        key = str(choices)
        if key not in self._known:
            config = self.model.mutator.model_config(choices)
            self._known[key] = {'choices': choices, **self.look_at(config)}
        return self._known[key]

    def _fits(self, resources: Mapping[str, float]) -> bool:
        return all(
            low <= resources[name] <= high
            for name, (low, high) in self.constraints_range.items()
        )

    def _check_constraints(
        self, random_subnet: dict[str, str]
    ) -> tuple[bool, dict[str, float]]:
        found = self.examine(random_subnet)
        self._misses = 0 if 'score' in found else self._misses + 1
        if self._misses == PATIENCE:
            raise ValueError(
                f'StudentSearchLoop: none of {PATIENCE} students fits '
                f'constraints_range={self.constraints_range}. The last one '
                f'has flops={found["flops"]:.4g} and '
                f'params={found["params"]:.4g}, in millions.'
            )
        resources = {key: found[key] for key in ('flops', 'params', 'latency')}
        return 'score' in found, resources

    def update_candidates_scores(self) -> None:
        """Gives the candidates their scores, which mmrazor would round."""
        for index, choices in enumerate(self.candidates.subnets):
            score = self.examine(choices)['score']
            self.candidates.set_resource(index, score, 'score')

    def _save_searcher_ckpt(self) -> None:
        """Saves nothing, and says how it goes."""
        best = self.ranking[0]
        self.runner.logger.info(
            f'Generation {self._epoch} of {self._max_epochs}: '
            f'{len(self.ranking)} students scored, the best '
            f'{best["choices"]} at {best["score"]:.6g}.'
        )

    def _save_best_fix_subnet(self) -> None:
        """Saves nothing: there is no supernet whose part it would be."""
