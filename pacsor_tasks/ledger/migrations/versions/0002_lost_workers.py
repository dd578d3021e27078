"""Count the processes that died at a piece of work"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    for table in ("run", "delivery"):
        op.add_column(table, sa.Column("losses", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Take back."""
    for table in ("delivery", "run"):
        with op.batch_alter_table(table) as batch_op:
            batch_op.drop_column("losses")
