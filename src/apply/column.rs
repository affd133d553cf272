//! Columns of thousands of rows as array parameters, written in one go.
//!
//! What sqlx writes by itself is the same, element by element: each makes the buffer grow, leaves a
//! gap for its length and comes back to it. With fifteen columns of a row that was an eighth of
//! the worker's instructions. The format is that of `array_recv` in PostgreSQL's `arrayfuncs.c`:
//! dimensions, flags, type of the elements, their number, lower bound, then each behind its length,
//! which is -1 for a null; all of it 32-bit integers, big-endian.

use std::borrow::Cow;

use sqlx::Postgres;
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo};
use sqlx::types::Type;
use time::OffsetDateTime;
use uuid::Uuid;

/// The epoch of `timestamptz`, 2000-01-01, in seconds since 1970.
const EPOCH: i64 = 946_684_800;
/// Bytes before the elements.
const HEAD: usize = 20;
/// Bytes of a length.
const LENGTH: usize = 4;

/// One column, to be given to a statement as array: by `Column(..) as _`, for which sqlx does not check
/// the type. The cast in the statement says which it must be.
pub(super) struct Column<'a, T>(pub(super) &'a [T]);

/// What a column is made of. The whole array must not pass 2 GiB, or sqlx refuses it; so no
/// element does.
pub(super) trait Element: Type<Postgres> + PgHasArrayType {
    /// Bytes of its value.
    fn size(&self) -> usize;

    /// Writes it with its length.
    fn write(&self, to: &mut Vec<u8>);
}

fn write(value: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(&(value.len() as i32).to_be_bytes());
    to.extend_from_slice(value);
}

impl Element for Uuid {
    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn write(&self, to: &mut Vec<u8>) {
        write(self.as_bytes(), to);
    }
}

impl Element for i32 {
    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn write(&self, to: &mut Vec<u8>) {
        write(&self.to_be_bytes(), to);
    }
}

impl Element for i64 {
    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn write(&self, to: &mut Vec<u8>) {
        write(&self.to_be_bytes(), to);
    }
}

impl Element for OffsetDateTime {
    fn size(&self) -> usize {
        size_of::<i64>()
    }

    fn write(&self, to: &mut Vec<u8>) {
        // The years -9999 to 9999 are a thirtieth of what fits.
        let micros = (self.unix_timestamp() - EPOCH) * 1_000_000 + i64::from(self.microsecond());
        micros.write(to);
    }
}

impl Element for &str {
    fn size(&self) -> usize {
        self.len()
    }

    fn write(&self, to: &mut Vec<u8>) {
        write(self.as_bytes(), to);
    }
}

impl Element for Cow<'_, str> {
    fn size(&self) -> usize {
        self.len()
    }

    fn write(&self, to: &mut Vec<u8>) {
        write(self.as_bytes(), to);
    }
}

impl<T: Element> Element for Option<T> {
    fn size(&self) -> usize {
        self.as_ref().map_or(0, T::size)
    }

    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Some(value) => value.write(to),
            None => to.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }
}

impl<T: Element> Type<Postgres> for Column<'_, T> {
    fn type_info() -> PgTypeInfo {
        T::array_type_info()
    }
}

impl<'q, T: Element> Encode<'q, Postgres> for Column<'_, T> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let of = <T as Type<Postgres>>::type_info().oid().ok_or("not a built-in type")?;
        let count = i32::try_from(self.0.len())?;
        for word in [1, 0, of.0 as i32, count, 1] {
            buffer.extend_from_slice(&word.to_be_bytes());
        }
        self.0.iter().for_each(|element| element.write(buffer));
        Ok(IsNull::No)
    }

    /// Exactly what is written, with the length before all of it: the macros of sqlx make room for
    /// that much at once.
    fn size_hint(&self) -> usize {
        let elements: usize = self.0.iter().map(|element| LENGTH + element.size()).sum();
        LENGTH + HEAD + elements
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    /// Holds what is written here against what sqlx writes.
    fn agrees<'q, T: Element>(values: &'q [T])
    where
        &'q [T]: Encode<'q, Postgres> + Type<Postgres>,
    {
        let (mut ours, mut theirs) = (PgArgumentBuffer::default(), PgArgumentBuffer::default());
        let column = Column(values);
        assert!(matches!(column.encode_by_ref(&mut ours).unwrap(), IsNull::No));
        assert!(matches!(values.encode_by_ref(&mut theirs).unwrap(), IsNull::No));
        assert_eq!(ours[..], theirs[..]);
        assert_eq!(column.size_hint(), LENGTH + ours.len());
        assert_eq!(Column::<T>::type_info(), <&[T]>::type_info());
    }

    #[test]
    fn a_column_without_rows_is_written_as_sqlx_would() {
        agrees::<&str>(&[]);
        agrees::<Option<i64>>(&[]);
    }

    proptest! {
        #[test]
        fn a_column_is_written_as_sqlx_would(
            words in prop::collection::vec(".{0,20}", 0..20),
            ids in prop::collection::vec(any::<u128>().prop_map(Uuid::from_u128), 0..20),
            numbers in prop::collection::vec(any::<Option<i64>>(), 0..20),
            // Whole microseconds of the years -9999 to 9999.
            times in prop::collection::vec(-377_673_580_800_000_000..253_402_300_800_000_000_i64, 0..20),
        ) {
            agrees(&words.iter().map(Cow::from).collect::<Vec<_>>());
            agrees(&words.iter().map(String::as_str).collect::<Vec<_>>());
            agrees(&ids);
            agrees(&numbers);
            agrees(&numbers.iter().flatten().copied().collect::<Vec<i64>>());
            agrees(&numbers.iter().flatten().map(|n| *n as i32).collect::<Vec<i32>>());
            let at = |micros: &i64| OffsetDateTime::from_unix_timestamp_nanos(i128::from(*micros) * 1_000);
            let times: Vec<_> = times.iter().map(|micros| at(micros).unwrap()).collect();
            agrees(&times);
            agrees(&times.iter().map(|time| Some(*time)).chain([None]).collect::<Vec<_>>());
        }
    }

    #[test]
    fn times_before_and_after_the_epoch_are_whole_microseconds() {
        agrees(&[datetime!(1999-12-31 23:59:59.999999 UTC), datetime!(2000-01-01 00:00 +01:00)]);
    }
}
