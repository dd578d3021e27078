"""What a run was relaunched for and from where, and which rule filtered an instance"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0008"
branch_labels = None
depends_on = None

COLUMNS: dict[str, dict[str, Any]] = {
    "run": {
        "from_step": sa.String(length=16),
        "only_destination": sa.String(length=64),
        "request_key": sa.String(length=64),
    },
    "run_instance": {"rule": sa.Integer(), "tag": sa.String(length=11)},
}


def upgrade() -> None:
    """Apply."""
    for table, columns in COLUMNS.items():
        for name, kind in columns.items():
            op.add_column(table, sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    """Take back."""
    for table, columns in COLUMNS.items():
        with op.batch_alter_table(table) as batch_op:
            for name in columns:
                batch_op.drop_column(name)
