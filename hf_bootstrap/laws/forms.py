"""All the functional forms a law can take, by name.

They are defined in `two_stage`, `pooled` and `one_stage`; what a form must state is in `terms`, and rows from scratch
are completed in `scratch`. To fit a form of your own, pass an object: `ScalingLaw(form=MyForm())`; to save it by name
as well, add it to `FORMS`.
"""

from ..errors import LawError, did_you_mean
from .one_stage import Chinchilla, CrossLingual, DataConstrained, DCpt, Gadre, Kaplan
from .pooled import CptDynamics, EffectiveTransfer, TotalTokens, Unified
from .terms import Form
from .two_stage import Additive, Barnett, Bootstrap, BootstrapN, Hybrid, Multiplicative

__all__ = ["FORMS", "find_form"]


def find_form(form: str | Form) -> Form:
    """The form of that name, or the object itself.

    Raises:
        LawError: no form has that name.
    """
    if isinstance(form, Form):
        return form
    if form not in FORMS:
        raise LawError(f"There is no form {form!r}. {did_you_mean(str(form), FORMS)} Or pass a Form object.")
    return FORMS[form]


FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Bootstrap(),
        BootstrapN(),
        Multiplicative(),
        Additive(),
        Hybrid(),
        Barnett(),
        TotalTokens(),
        EffectiveTransfer(),
        CptDynamics(),
        Unified(),
        Chinchilla(),
        CrossLingual(),
        Gadre(),
        Kaplan(),
        DataConstrained(),
        DCpt(),
    )
}
