"""Find the answers to a result, so that old results can be forgotten"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_delivery_instance_result_id", "delivery_instance", ["result_id"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_delivery_instance_result_id", table_name="delivery_instance")
