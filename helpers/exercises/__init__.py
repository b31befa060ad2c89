"""Checkers for the reader's own code: each says what is right, or names the likely mistake.

A checker takes the reader's function, tries it on small cases of several sizes and prints one
line. Numbers may come in any form: a list, an array, a tensor, a plain float. What still is `None`
or `NotImplemented` is "not done yet", and the notebook goes on. `frame` is what they share; the
rest is one file for each notebook.
"""

from helpers.exercises.notebook_01 import (
    check_plausible_trap,
    check_preference_probability,
    check_rating_zero,
    check_repaired_cost,
)
from helpers.exercises.notebook_02 import (
    check_best_model,
    check_bits_per_byte,
    check_training_memory,
    rival_models,
)
from helpers.exercises.notebook_03 import (
    broken_labels,
    check_broken_labels,
    check_mask_turns,
    check_prompt_share,
    check_untrained_loss,
)
from helpers.exercises.notebook_04 import (
    check_best_of,
    check_fooling_probe,
    check_length_bias,
)
from helpers.exercises.notebook_05 import (
    broken_runs,
    check_broken_runs,
    check_clipped_loss,
    check_gae,
    check_own_reward,
    check_token_rewards,
)
from helpers.exercises.notebook_06 import (
    check_draws_for_kl,
    check_response_mask,
)
from helpers.exercises.notebook_07 import (
    check_bootstrap,
    check_fair_win_rate,
    check_prompts_needed,
    position_judge,
)
from helpers.exercises.notebook_08 import (
    check_best_of_n_kl,
    check_dpo_loss,
    check_leave_one_out,
)
from helpers.exercises.notebook_09 import (
    check_careful,
    check_fooling_text,
    check_peak,
    check_proxies,
    proxies,
)
from helpers.exercises.notebook_10 import (
    asking_judge,
    check_doubt,
    check_odd_raters,
    check_unturned,
    odd_raters,
)

__all__ = [
    "asking_judge",
    "broken_labels",
    "broken_runs",
    "check_best_model",
    "check_best_of",
    "check_best_of_n_kl",
    "check_bits_per_byte",
    "check_bootstrap",
    "check_broken_labels",
    "check_broken_runs",
    "check_careful",
    "check_clipped_loss",
    "check_doubt",
    "check_dpo_loss",
    "check_draws_for_kl",
    "check_fair_win_rate",
    "check_fooling_probe",
    "check_fooling_text",
    "check_gae",
    "check_leave_one_out",
    "check_length_bias",
    "check_mask_turns",
    "check_odd_raters",
    "check_own_reward",
    "check_peak",
    "check_plausible_trap",
    "check_preference_probability",
    "check_prompt_share",
    "check_prompts_needed",
    "check_proxies",
    "check_rating_zero",
    "check_repaired_cost",
    "check_response_mask",
    "check_token_rewards",
    "check_training_memory",
    "check_untrained_loss",
    "check_unturned",
    "odd_raters",
    "position_judge",
    "proxies",
    "rival_models",
]
