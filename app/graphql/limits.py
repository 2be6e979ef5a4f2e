"""Refuses a GraphQL query that asks for too much, before anything slow looks at it.

strawberry ships `QueryDepthLimiter` and `MaxAliasesLimiter`. Both follow every spread of a fragment anew, so
that n fragments which spread the next one twice cost 2ⁿ steps: 700 bytes hold the event loop for a second,
1,700 bytes for years. And both are validation rules, so that the other rules, some of them quadratic, run as
well. Here each fragment is weighed once, and a query that is refused is not validated.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    is_introspection_type,
)
from strawberry.extensions import SchemaExtension

from app.settings import Settings

INTROSPECTION_ROWS = 3
"""Counted for `__schema`, whose fields are answered for each of many types: the usual query passes, once."""


class Limits(SchemaExtension):
    """Applies the `graphql_max_*` settings of the context. Introspection is on where the docs are."""

    def on_operation(self) -> Iterator[None]:
        self.execution_context.parse_options["max_tokens"] = self.settings.graphql_max_tokens
        if not self.settings.docs:
            self.execution_context.validation_rules += (NoSchemaIntrospectionCustomRule,)
        yield

    def on_validate(self) -> Iterator[None]:
        if excess := self.excess():
            # strawberry skips its own validation when it finds errors here.
            self.execution_context.pre_execution_errors = [GraphQLError(excess)]
        yield

    @property
    def settings(self) -> Settings:
        settings = self.execution_context.context.settings
        assert isinstance(settings, Settings)
        return settings

    def excess(self) -> str | None:
        document = self.execution_context.graphql_document
        assert document
        scale = Scale(
            self.execution_context.schema._schema,
            document,
            self.execution_context.variables or {},
            self.settings.graphql_max_page_size,
        )
        try:
            weights = scale.weights()
        except RecursionError:
            return "The query is nested too deeply."
        for name, what in (("depth", "levels"), ("aliases", "aliases or repetitions"), ("cost", "fields")):
            limit = getattr(self.settings, f"graphql_max_{name}")
            if any(getattr(weight, name) > limit for weight in weights):
                return f"The query asks for more than {limit} {what}."
        return None


@dataclass(frozen=True)
class Weight:
    """What a selection asks for: levels of fields, fields renamed or repeated, and fields in the answer."""

    depth: int = 0
    aliases: int = 0
    cost: int = 0


class Scale:
    """Weighs a document that is parsed but not validated: anything in it may be unknown."""

    def __init__(
        self, schema: GraphQLSchema, document: DocumentNode, variables: Mapping[str, Any], page_size: int
    ) -> None:
        self.schema = schema
        self.page_size = page_size
        self.operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        self.variables = [{**defaults(operation), **variables} for operation in self.operations]
        self.definitions = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self.fragments: dict[str, Weight] = {}

    def weights(self) -> list[Weight]:
        """One of each operation; and of each fragment, for those that no operation uses."""
        operations = [
            self.selection(node.selection_set, self.schema.get_root_type(node.operation))
            for node in self.operations
        ]
        return operations + [self.fragment(name) for name in self.definitions]

    def selection(self, selection: SelectionSetNode | None, parent: GraphQLNamedType | None) -> Weight:
        depth = aliases = cost = 0
        names: set[str] = set()
        for node in selection.selections if selection else ():
            if isinstance(node, FieldNode):
                inner = self.field(node, parent)
                aliases += node.alias is not None or node.name.value in names
                names.add(node.name.value)
            elif isinstance(node, InlineFragmentNode):
                condition = node.type_condition
                named = self.schema.get_type(condition.name.value) if condition else parent
                inner = self.selection(node.selection_set, named)
            else:
                assert isinstance(node, FragmentSpreadNode)
                inner = self.fragment(node.name.value)
            depth = max(depth, inner.depth)
            aliases += inner.aliases
            cost += inner.cost
        return Weight(depth, aliases, cost)

    def fragment(self, name: str) -> Weight:
        if name not in self.fragments:
            self.fragments[name] = Weight()  # where a cycle meets itself; validation refuses it later
            if node := self.definitions.get(name):
                named = self.schema.get_type(node.type_condition.name.value)
                self.fragments[name] = self.selection(node.selection_set, named)
        return self.fragments[name]

    def field(self, node: FieldNode, parent: GraphQLNamedType | None) -> Weight:
        field = parent.fields.get(node.name.value) if isinstance(parent, GraphQLObjectType) else None
        inner = self.selection(node.selection_set, get_named_type(field.type) if field else None)
        if node.name.value in ("__schema", "__type"):
            return Weight(0, inner.aliases, 1 + INTROSPECTION_ROWS * inner.cost)
        # Tools ask for many levels of introspection; graphql-core has a rule that bounds its lists.
        level = 0 if parent and is_introspection_type(parent) else 1
        return Weight(level + inner.depth, inner.aliases, 1 + self.rows(node, field) * inner.cost)

    def rows(self, node: FieldNode, field: GraphQLField | None) -> int:
        """How many rows the page of this field may have: as its `limit` says, and never more than allowed.

        A fragment belongs to every operation, so the largest counts that the variable has in any.
        """
        limit = field.args.get("limit") if field else None
        if limit is None:
            return 1
        arguments = {argument.name.value: argument.value for argument in node.arguments or ()}
        given = arguments.get("limit")
        if isinstance(given, VariableNode):
            asked = [variables.get(given.name.value, limit.default_value) for variables in self.variables]
        else:
            asked = [number(given) if given else limit.default_value]
        return max((self.page(rows) for rows in asked), default=self.page_size)

    def page(self, rows: object) -> int:
        return rows if isinstance(rows, int) and 0 <= rows <= self.page_size else self.page_size


def defaults(operation: OperationDefinitionNode) -> dict[str, int | None]:
    """What the variables are that the client does not send."""
    return {
        definition.variable.name.value: number(definition.default_value)
        for definition in operation.variable_definitions or ()
        if definition.default_value
    }


def number(node: ValueNode) -> int | None:
    # Python takes long for thousands of digits, and then refuses them.
    return int(node.value) if isinstance(node, IntValueNode) and len(node.value) < 10 else None
