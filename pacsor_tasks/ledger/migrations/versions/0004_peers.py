"""Peers that are paused or away, work that waits for them, and who did what"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NAME = {"delivery": "destination", "run": "core"}


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "peer",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("paused_at", sa.Double(), nullable=True),
        sa.Column("paused_by", sa.String(length=64), nullable=True),
        sa.Column("pause_reason", sa.Text(), nullable=True),
        sa.Column("strikes", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("opened_at", sa.Double(), nullable=True),
        sa.Column("probe_at", sa.Double(), nullable=True),
        sa.Column("probes", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_peer")),
    )
    op.add_column("event", sa.Column("by", sa.String(length=64), nullable=True))
    op.add_column("event", sa.Column("peer", sa.String(length=80), nullable=True))
    op.create_index("ix_event_peer", "event", ["peer", "id"])
    for table, name in NAME.items():
        op.add_column(
            table, sa.Column("held", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        op.create_index(f"ix_{table}_{name}_due_at", table, [name, "due_at"])
        op.create_index(f"ix_{table}_{name}_lease", table, [name, "lease_until"])


def downgrade() -> None:
    """Take back."""
    for table, name in NAME.items():
        op.drop_index(f"ix_{table}_{name}_lease", table_name=table)
        op.drop_index(f"ix_{table}_{name}_due_at", table_name=table)
        with op.batch_alter_table(table) as batch_op:
            batch_op.drop_column("held")
    op.drop_index("ix_event_peer", table_name="event")
    with op.batch_alter_table("event") as batch_op:
        batch_op.drop_column("peer")
        batch_op.drop_column("by")
    op.drop_table("peer")
