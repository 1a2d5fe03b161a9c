"""Why a run's layers have the budgets that they have, what is protected of them, and what else was decided."""
