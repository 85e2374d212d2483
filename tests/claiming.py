"""How tests claim a single slot."""

from service.domain.execution import Claim, Execution
from service.ports import Ledger, ServiceError


async def opened(ledger: Ledger, execution: Execution) -> Claim:
    """What becomes of this claim. Raises what is no claim."""
    (answer,) = await ledger.open_all([execution])
    if isinstance(answer, ServiceError):
        raise answer
    return answer
