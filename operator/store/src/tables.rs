//! The one declaration of all tables of a crate.

/// Declares the tables of a crate: name and row type of each.
///
/// From it follow, in the same module:
///
/// - a struct with a [`Table`](crate::Table) per name, of which a [`Snapshot`](crate::Snapshot) is made;
/// - `TableId`, with a variant per row type, `ALL`, and names as text both ways;
/// - `RowId`, with a variant per row type that holds a key, and as text the table's name and the key;
/// - [`Schema`](crate::Schema) (columns, text and JSON by table) and [`Holds`](crate::Holds) for each row type.
///
/// Row types are named by one identifier, and each has one table. See the example of the [crate](crate).
#[macro_export]
macro_rules! tables {
    ($(#[$meta:meta])* $vis:vis $tables:ident { $($(#[$doc:meta])* $field:ident: $row:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default)]
        $vis struct $tables {
            $($(#[$doc])* pub $field: $crate::Table<$row>,)+
        }

        /// Names a table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum TableId {
            $(#[doc = ::std::concat!("`", ::std::stringify!($field), "`.")] $row,)+
        }

        impl TableId {
            /// All tables, in the order of their declaration.
            pub const ALL: &'static [TableId] = &[$(TableId::$row,)+];
            const NAMES: &'static [&'static str] = &[$(::std::stringify!($field),)+];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(TableId::$row => ::std::stringify!($field),)+
                }
            }
        }

        impl ::std::fmt::Display for TableId {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl ::std::str::FromStr for TableId {
            type Err = $crate::UnknownTable;

            fn from_str(name: &str) -> ::std::result::Result<Self, $crate::UnknownTable> {
                let unknown = || $crate::UnknownTable { name: name.to_owned(), known: TableId::NAMES };
                TableId::ALL.iter().copied().find(|table| table.name() == name).ok_or_else(unknown)
            }
        }

        /// Names a row of any table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum RowId {
            $(#[doc = ::std::concat!("In `", ::std::stringify!($field), "`.")] $row(<$row as $crate::Row>::Key),)+
        }

        impl RowId {
            /// Its table.
            pub const fn table(self) -> TableId {
                match self {
                    $(RowId::$row(_) => TableId::$row,)+
                }
            }
        }

        impl ::std::fmt::Display for RowId {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                match self {
                    $(RowId::$row(key) => {
                        let key = <$row as $crate::Row>::key_text(*key);
                        ::std::write!(f, ::std::concat!(::std::stringify!($field), " {}"), key)
                    })+
                }
            }
        }

        const _: () = {
            #[derive(Default)]
            pub struct AllWaiters {
                $($field: $crate::Waiters<<$row as $crate::Row>::Key>,)+
            }

            impl $crate::Schema for $tables {
                type TableId = TableId;
                type RowId = RowId;
                type Waiters = AllWaiters;

                const ALL: &'static [TableId] = TableId::ALL;

                fn revision_of(&self, table: TableId) -> u64 {
                    match table {
                        $(TableId::$row => self.$field.revision(),)+
                    }
                }
                fn len_of(&self, table: TableId) -> usize {
                    match table {
                        $(TableId::$row => self.$field.len(),)+
                    }
                }
                fn row_revision(&self, row: RowId) -> ::std::option::Option<u64> {
                    match row {
                        $(RowId::$row(key) => self.$field.get(key).map(|row| row.revision),)+
                    }
                }
                fn columns_of(table: TableId) -> ::std::vec::Vec<&'static str> {
                    match table {
                        $(TableId::$row => {
                            <$row as $crate::Row>::columns().iter().map($crate::Column::name).collect()
                        })+
                    }
                }
                fn listing_of(&self, table: TableId, query: $crate::Query<'_>) -> $crate::Listing {
                    match table {
                        $(TableId::$row => self.$field.listing(query),)+
                    }
                }
                fn listed_changes_of(
                    &self,
                    table: TableId,
                    before: &Self,
                ) -> ::std::vec::Vec<$crate::ListedChange> {
                    match table {
                        $(TableId::$row => self.$field.listed_changes(&before.$field),)+
                    }
                }
                fn changed_rows(&self, before: &Self, each: &mut dyn ::std::ops::FnMut(RowId)) {
                    $(for change in self.$field.changes_since(&before.$field) {
                        each(RowId::$row($crate::Row::key(&change.row().row)));
                    })+
                }
                fn wake(waiters: &AllWaiters, before: &Self, after: &Self, revision: u64) {
                    $(waiters.$field.wake(&before.$field, &after.$field, revision);)+
                }
            }

            $(impl $crate::Holds<$row> for $tables {
                const TABLE: TableId = TableId::$row;

                fn row_id(key: <$row as $crate::Row>::Key) -> RowId {
                    RowId::$row(key)
                }
                fn table(&self) -> &$crate::Table<$row> {
                    &self.$field
                }
                fn table_mut(&mut self) -> &mut $crate::Table<$row> {
                    &mut self.$field
                }
                fn waiters(waiters: &AllWaiters) -> &$crate::Waiters<<$row as $crate::Row>::Key> {
                    &waiters.$field
                }
            })+
        };
    };
}
